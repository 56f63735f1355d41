"""What a command may write onto, and what a kill leaves of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from realign_plugin import SafetySubspace
from realign_plugin.cli import main
from realign_plugin.outputs import LORA_FIELDS
from realign_plugin.subspace.lora_adapters import CONFIG_NAME, WEIGHTS_NAME, read_lora
from tests.conftest import with_random_logits
from tests.kills import kill_at_each_change
from tests.tuner.test_architectures import World


def realign(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0), capsys.readouterr().err


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def yard(lab: Path, subspace: Any, tmp_path: Path) -> Path:
    """A trained subspace ``S`` and copies of three adapters, which a mistake may destroy."""
    subspace.save(tmp_path / "S")
    for name in ("aligned", "task1", "task2", "task3"):
        shutil.copytree(lab / name, tmp_path / name)
    (tmp_path / "alias").symlink_to(tmp_path / "S")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "samples.jsonl").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("export S S", "is an input of this command (S)"),
        ("export S S --overwrite", "is an input of this command (S)"),
        ("export alias S --overwrite", "is an input of this command (alias)"),
        ("export S alias --overwrite", "is an input of this command (S)"),
        ("export S ./task1/../S --overwrite", "is an input of this command (S)"),
        ("export S task1", "task1: holds adapter_config.json that export, fuse or transfer did not write"),
        ("export S model", "model: holds model.safetensors that"),
        ("fuse task1 task2", "task1: holds adapter_config.json that"),
        ("fuse task1 task2 task1 --overwrite", "is an input of this command (task1)"),
        ("fuse aligned task2 --aligned aligned --overwrite", "is an input of this command (aligned)"),
        ("transfer S S --task-adapter task3 --overwrite", "is an input of this command (S)"),
        ("transfer S task3 --task-adapter task3 --overwrite", "is an input of this command (task3)"),
        ("transfer S task2 --task-adapter task3", "task2: holds adapter_config.json that"),
        ("judge samples.jsonl --out samples.jsonl", "is an input of this command (samples.jsonl)"),
        ("data sft . --task align --source samples.jsonl --name samples --overwrite", "is an input of this command"),
    ],
)
def test_nothing_that_is_needed_is_written_onto(
    yard: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(yard)
    before = state(yard)
    code, err = realign(capsys, *words.split())
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert state(yard) == before


@pytest.mark.parametrize("words", [["export", "S", ""], ["fuse", "", "task1"], ["judge", "samples.jsonl", "--out="]])
def test_an_empty_argument_is_refused(
    yard: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(yard)
    before = state(yard)
    code, err = realign(capsys, *words)
    assert code == 2
    assert "an argument is empty" in err
    assert state(yard) == before


def test_a_command_replaces_what_it_wrote_and_with_overwrite_more(
    yard: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(yard)
    for words in ("export S o", "export S o --mask binary", "fuse o task1 task2 --aligned aligned"):
        assert realign(capsys, *words.split()) == (0, "")
        assert json.loads((yard / "o" / CONFIG_NAME).read_text()).keys() == LORA_FIELDS
    assert realign(capsys, "transfer", "S", "o", "--task-adapter", "task3")[0] == 0
    assert realign(capsys, "transfer", "S", "o", "--task-adapter", "task3", "--task-weight", "0.5")[0] == 0
    (yard / "task1" / "adapter_model.bin").write_bytes(b"old")
    assert realign(capsys, "export", "S", "task1", "--overwrite")[0] == 0
    assert not (yard / "task1" / "adapter_model.bin").exists()
    expected = SafetySubspace.load(yard / "S").effective()
    assert all(torch.equal(pair["A"], expected[m]["A"]) for m, pair in read_lora(yard / "task1", "").factors.items())
    assert realign(capsys, "export", "S", ".")[0] == 0
    assert (yard / WEIGHTS_NAME).is_file()


def test_experts_are_exported_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    World("experts in one tensor", tmp_path).subspace().save(tmp_path / "S")
    for words in ("export S o", "export S o --mask binary"):
        assert realign(capsys, *words.split())[0] == 0
    assert "target_parameters" in json.loads((tmp_path / "o" / CONFIG_NAME).read_text())


def test_a_training_that_went_on_from_a_transfer_stays(
    yard: Path, lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(yard)
    assert realign(capsys, "transfer", "S", "moved", "--task-adapter", "task3")[0] == 0
    base = AutoModelForCausalLM.from_pretrained(lab / "base")
    PeftModel.from_pretrained(base, yard / "moved", is_trainable=True).save_pretrained(yard / "trained")
    before = state(yard / "trained")
    for words in ("export S trained", "transfer S trained --task-adapter task3"):
        code, err = realign(capsys, *words.split())
        assert code == 2
        assert "trained: holds adapter_config.json that export, fuse or transfer did not write" in err
    assert state(yard / "trained") == before


@pytest.mark.parametrize(
    ("words", "tried"),
    [
        ("export S file", "the subspace"),
        ("transfer S file --task-adapter task3", "the subspace"),
        ("compare samples.jsonl --out file", "the results"),
        ("inspect S --plot folder.png", "the subspace"),
        ("judge samples.jsonl --out folder.png", "the samples"),
        ("judge samples.jsonl --out file/below", "the samples"),
        ("report S --out nowhere/" + "x" * 256 + ".html", "the run"),
        ("report S --out S/adapter_config.json", "the run"),
    ],
)
def test_the_output_is_tried_before_anything_is_read(
    yard: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, tried: str
) -> None:
    from realign_plugin.evaluation import compare, rejudge
    from realign_plugin.lab.report import run

    def early(*_: Any, **__: Any) -> None:
        raise AssertionError(f"{tried} was read before the output was tried")

    monkeypatch.setattr(SafetySubspace, "load", early)
    monkeypatch.setattr(compare, "compare", early)
    monkeypatch.setattr(rejudge, "judge_files", early)
    monkeypatch.setattr(run, "read_run", early)
    monkeypatch.chdir(yard)
    (yard / "file").write_text("mine")
    (yard / "folder.png").mkdir()
    before = state(yard)
    code, err = realign(capsys, *words.split())
    assert (code, err.count("\n")) == (2, 1)
    assert "expected a" in err
    assert state(yard) == before
    assert not (yard / "nowhere").exists()


@pytest.mark.parametrize(
    "words", ["export S o", "fuse o task1 --aligned aligned", "transfer S o --task-adapter task3"]
)
@pytest.mark.parametrize("fault", ["safetensors", "rename"])
def test_a_disk_that_fills_up_is_one_line(
    yard: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, fault: str
) -> None:
    from safetensors import SafetensorError

    from realign_plugin.subspace import subspace

    def full(*_: Any, **__: Any) -> None:
        if fault == "rename":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.chdir(yard)
    monkeypatch.setattr(*((os, "rename") if fault == "rename" else (subspace, "save_file")), full)
    code, err = realign(capsys, *words.split())
    assert (code, err.count("\n")) == (2, 1)
    assert "o: cannot be written (" in err
    assert "No space left on device" in err
    assert not list(yard.glob("o*")) + list(yard.glob(".*"))


def test_an_export_that_is_killed_is_the_old_or_the_new_one(yard: Path, subspace: Any) -> None:
    other = with_random_logits(subspace, seed=5)
    other.spec.lora_alpha, old_alpha = 99, other.spec.lora_alpha
    before, loaded = SafetySubspace.load(yard / "S"), []

    def save(one: SafetySubspace) -> Callable[[], Any]:
        return lambda: [one.to_lora(yard / "out" / "lora"), one.save(yard / "out" / "S")]

    def renew() -> None:
        shutil.rmtree(yard / "out", ignore_errors=True)
        save(before)()

    def whole() -> None:
        found = SafetySubspace.load(yard / "out" / "S")
        lora = read_lora(yard / "out" / "lora", "")
        for alpha, logits, kind in (
            (found.spec.lora_alpha, found.logits, "S"),
            (lora.config.lora_alpha, None, "lora"),
        ):
            one = {old_alpha: before, 99: other}[alpha]
            loaded.append((kind, alpha))
            for module, pair in one.effective().items():
                if logits is None:
                    assert torch.equal(lora.factors[module]["A"], pair["A"])
                else:
                    assert torch.equal(logits[module]["A"], one.logits[module]["A"])
        save(other)()
        assert sorted(p.name for p in (yard / "out").iterdir()) == ["S", "lora"]

    assert kill_at_each_change(yard / "out", renew, save(other), whole) > 20
    assert set(loaded) == {(kind, alpha) for kind in ("S", "lora") for alpha in (old_alpha, 99)}
