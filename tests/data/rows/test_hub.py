"""Hub data sets, streamed by the real ``datasets`` where its loader is replaced by a local stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from realign_plugin.data.rows import sources
from realign_plugin.data.rows.hub import HubRows
from realign_plugin.data.rows.reading import FileRows
from realign_plugin.data.rows.sources import DEFAULT_PAIRS, SAFETY_PAIRS, TASKS, HubSource, resolve, rows_of
from realign_plugin.errors import UserError
from tests.data.conftest import Run, instructions, labelled_pairs, read_json, read_lines


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that has PKU's rows under any id that begins with PKU, and instructions under all others."""
    calls: list[tuple[Any, ...]] = []

    def load(hub: str, config: str | None, *, split: str, streaming: bool) -> Any:
        calls.append((hub, config, split, streaming))
        rows = labelled_pairs(200) if hub.startswith("PKU") else instructions(50)

        def stream() -> Iterator[dict[str, Any]]:
            yield from rows

        return datasets.IterableDataset.from_generator(stream)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_preference_pairs_are_streamed(asked: list[Any], realign: Run, tmp_path: Path) -> None:
    code, out, err = realign("preference", tmp_path, "--split", "test", "--limit", 20)
    assert code == 0, err
    assert "PKU-Alignment/PKU-SafeRLHF-30K" in out
    assert asked == [("PKU-Alignment/PKU-SafeRLHF-30K", None, "test", True)]
    assert len(read_lines(tmp_path / "preference.jsonl")) == 20
    source = read_json(tmp_path / "preference.card.json")["source"]
    assert source["licence"] == "CC-BY-NC-4.0"
    assert source["split"] == "test"
    assert "datasets" in read_json(tmp_path / "preference.card.json")["versions"]


@pytest.mark.parametrize("task", list(TASKS))
def test_each_task_has_its_data_set(asked: list[Any], realign: Run, tmp_path: Path, task: str) -> None:
    assert realign("sft", tmp_path, "--task", task)[0] == 0
    assert realign("contrast", tmp_path, "--source", task, "--name", "c")[0] == 0
    known = TASKS[task]
    assert asked == [(known.hub, known.config, "train", True)] * 2
    assert len(read_lines(tmp_path / f"{task}.jsonl")) == len(read_lines(tmp_path / "c.jsonl")) == 50
    assert read_json(tmp_path / f"{task}.card.json")["source"]["licence"] == known.licence


def test_the_ways_out_without_a_hub(realign: Run, tmp_path: Path) -> None:
    code, _, err = realign("preference", tmp_path / "d")
    assert code == 2
    assert "PKU-SafeRLHF-30K, split 'train', cannot be fetched (" in err
    assert err.strip().endswith("or give --source FILE")
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "d").exists()


def test_a_split_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise ValueError('Bad split: kites.\nAvailable splits: ["train", "test"]')

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"Bad split: kites. Available splits: .*train") as caught:
        list(HubRows("a/b", None, "kites"))
    assert "\n" not in str(caught.value)


def test_what_a_source_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "folder").mkdir()
    assert resolve("rows.json") == Path("rows.json")
    assert isinstance(rows_of(Path("rows.json"), None), FileRows)
    assert resolve("gsm8k", TASKS) == TASKS["gsm8k"]
    assert resolve(DEFAULT_PAIRS) == SAFETY_PAIRS[DEFAULT_PAIRS]
    assert resolve("some/thing") == HubSource("some/thing")
    for source, message in (
        ("gsm8", r"'gsm8' is unknown, expected a task \(alpaca_en.*did you mean 'gsm8k'"),
        ("kites", "'kites' is unknown, .*; check the name"),
        ("nowhere.jsonl", "nowhere.jsonl does not exist, expected a file"),
        ("./some/thing", "does not exist"),
        ("folder", "is a folder, expected a file"),
    ):
        with pytest.raises(UserError, match=message):
            resolve(source, TASKS)
    with pytest.raises(UserError, match=r"--split: 'test' with the file rows.json, expected a hub id"):
        rows_of(Path("rows.json"), "test")


def test_ids_are_written_as_hub_ids_are() -> None:
    known = [*TASKS.values(), *SAFETY_PAIRS.values()]
    assert all(sources._HUB_ID.fullmatch(entry.hub) and entry.licence for entry in known)
    assert TASKS["gsm8k"].config == "main"
