"""Where a merged model goes, and what is there after a merge that was cut off."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from realign_plugin import SafetySubspace, UserError
from realign_plugin.files import atomic_folder
from realign_plugin.merging.run import MODEL_FILES
from tests.kills import kill_at_each_change
from tests.merging.conftest import Merge, configuration, state_of


def test_a_merge_that_breaks_off_leaves_the_model_that_was_there(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, target = yard / "fp32", tmp_path / "merged"
    config = configuration(home, adapter, mask="soft")
    before = merge(config, out_shard_size=4096)
    (target / "notes.txt").write_text("mine")
    calls: list[int] = []
    stock = SafetySubspace.effective_module

    def broken(self: SafetySubspace, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the machine is on fire")
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(SafetySubspace, "effective_module", broken)
    with pytest.raises(OSError, match="on fire"):
        merge(configuration(home, adapter, mask="binary"))
    assert all(torch.equal(tensor, state_of(target)[name]) for name, tensor in before.items())
    monkeypatch.undo()
    after = merge(configuration(home, adapter, mask="binary"))
    assert len(list(target.glob("*.safetensors"))) == 1
    assert not (target / "model.safetensors.index.json").exists()
    assert (target / "notes.txt").read_text() == "mine"
    assert not all(torch.equal(after[name], before[name]) for name in before)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("place", ["link", "working folder", "mount point"])
def test_folders_that_cannot_be_renamed(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    home, target = yard / "fp32", tmp_path / "merged"
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    real = tmp_path / "there"
    if place == "link":
        target.symlink_to(real)
    else:
        real.rename(target)
    if place == "working folder":
        monkeypatch.chdir(target)
        target = Path()
    if place == "mount point":
        stock = os.rename

        def across(source: Any, goal: Any) -> None:
            if Path(source).parent == target:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            stock(source, goal)

        monkeypatch.setattr(os, "rename", across)
    first = merge(configuration(home, adapter, mask="soft"), target, out_shard_size=4096)
    again = merge(configuration(home, adapter, mask="binary"), target)
    assert len(list(target.glob("*.safetensors"))) == 1
    assert not (target / "model.safetensors.index.json").exists()
    assert (target / "notes.txt").read_text() == "mine"
    assert not all(torch.equal(again[name], first[name]) for name in first)
    assert not list(tmp_path.glob(".*")) + list(target.glob(".*"))
    assert (tmp_path / "merged").is_symlink() == (place == "link")


def test_a_model_that_is_killed_while_it_is_put_there_is_the_old_one_or_the_new_one(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path
) -> None:
    target = tmp_path / "merged"
    configs = [configuration(yard / "fp32", adapter, mask=mask) for mask in ("soft", "binary")]
    models = [merge(configs[0], tmp_path / "old", out_shard_size=4096), merge(configs[1], tmp_path / "new")]
    found = set()

    def before() -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(tmp_path / "old", target)
        (target / "notes.txt").write_text("mine")

    def after() -> None:
        state = state_of(target)
        [which] = [n for n, one in enumerate(models) if all(torch.equal(one[name], state[name]) for name in one)]
        found.add(which)
        assert (target / "config.json").is_file()
        assert (target / "notes.txt").read_text() == "mine"

    def publish() -> None:
        with atomic_folder(target, replaces=MODEL_FILES, last="config.json") as work:
            shutil.copytree(tmp_path / "new", work, dirs_exist_ok=True)

    assert kill_at_each_change(tmp_path, before, publish, after) > 8
    assert found == {0, 1}
    merge(configs[0])
    assert not list(tmp_path.glob(".*")) + list(target.glob(".*"))


def test_a_merge_onto_one_of_its_models_is_refused(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    config = configuration(yard / "fp32", adapter)
    (tmp_path / "alias").symlink_to(yard / "fp32" / "base")
    for target in (yard / "fp32" / "base", tmp_path / "alias", adapter):
        with pytest.raises(UserError, match="is an input of this command"):
            merge(config, target)


def test_a_merge_into_the_folder_of_an_adapter_is_refused(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path
) -> None:
    target = Path(shutil.copytree(yard / "fp32" / "task1", tmp_path / "merged"))
    before = sorted(path.name for path in target.iterdir())
    with pytest.raises(UserError, match=r"merged: holds an adapter \(adapter_config\.json\), expected none"):
        merge(configuration(yard / "fp32", adapter), target)
    assert sorted(path.name for path in target.iterdir()) == before
    (target / "adapter_config.json").unlink()
    (target / "optimizer.bin").write_text("mine")
    (target / "model-00001-of-00002.safetensors").write_text("an earlier model's")
    merge(configuration(yard / "fp32", adapter), target, safe_serialization=False)
    left = {path.name for path in target.iterdir()}
    assert {"optimizer.bin", "adapter_model.safetensors", "pytorch_model.bin"} <= left
    assert "model-00001-of-00002.safetensors" not in left


def test_what_described_an_earlier_model_goes_with_it(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    home, target = yard / "fp32", tmp_path / "merged"
    given = {"aligned_adapter": str(home / "aligned"), "task_adapter": str(home / "task1")}
    safe = configuration(home, adapter) | {"merge_method": "safe_lora", "parameters": given}
    merge(safe | {"chat_template": "chatml"})
    described = {"safe_lora_report.json", "chat_template.jinja"}
    (target / "safe_notes.json").write_text("mine")
    assert described <= {path.name for path in target.iterdir()}
    merge(configuration(home, adapter), copy_tokenizer=False, write_model_card=False)
    left = {path.name for path in target.iterdir()}
    assert "safe_lora_report.json" not in left
    assert "mergekit_config.yml" not in left
    assert {"chat_template.jinja", "tokenizer.json", "safe_notes.json"} <= left
    shutil.copytree(home / "base", tmp_path / "plain" / "base", ignore=shutil.ignore_patterns("chat_template*"))
    merge(configuration(tmp_path / "plain", adapter))
    left = {path.name for path in target.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "safe_notes.json"} <= left
    assert not described & left
