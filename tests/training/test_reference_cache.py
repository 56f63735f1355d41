"""Reference log probabilities are computed once for each pair, and change nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llamafactory.train.tuner import run_exp

from realign_plugin.training.reference_cache import ReferenceCache
from realign_plugin.training.row_keys import row_keys
from realign_plugin.training.trainer import MaskDPOTrainer
from tests.conftest import training_options


def losses(run: Path) -> list[float]:
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.parametrize("reference", ["init", "aligned", "base"])
def test_three_epochs_compute_one_and_give_the_same_losses(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    computed: list[int] = []
    stock = MaskDPOTrainer.concatenated_forward

    def counted(self: Any, model: Any, batch: Any, is_ref_model: bool = False) -> Any:
        computed.append(int(is_ref_model))
        return stock(self, model, batch, is_ref_model)

    monkeypatch.setattr(MaskDPOTrainer, "concatenated_forward", counted)
    options = {"max_steps": 9, "per_device_train_batch_size": 8, "mask_reference": reference, "learning_rate": 0.2}
    run_exp(training_options(lab, tmp_path / "kept", **options))
    assert (len(computed) - sum(computed), sum(computed)) == (9, 3)  # 24 pairs in batches of 8: three steps an epoch
    computed.clear()
    monkeypatch.setattr(MaskDPOTrainer, "_may_remember", lambda *_: False)
    run_exp(training_options(lab, tmp_path / "anew", **options))
    assert sum(computed) == 9
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "anew"), rel=1e-5)


def test_the_reference_is_one_fixed_model_whatever_dropout_the_base_has(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout in attention is a function, no module, and the embeddings' noise (NEFTune) a hook."""
    base = Path(shutil.copytree(lab / "base", tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    options = {"model_name_or_path": str(base), "neftune_noise_alpha": 5.0, "max_steps": 6}
    found: list[torch.Tensor] = []
    stock = MaskDPOTrainer.compute_reference_log_probs

    def noted(self: Any, model: Any, batch: Any) -> Any:
        assert model.training
        chosen, rejected = stock(self, model, batch)
        assert model.training
        found.append(torch.cat([chosen, rejected]))
        return chosen, rejected

    monkeypatch.setattr(MaskDPOTrainer, "compute_reference_log_probs", noted)
    run_exp(training_options(lab, tmp_path / "kept", per_device_train_batch_size=8, **options))
    kept = list(found)
    found.clear()
    monkeypatch.setattr(MaskDPOTrainer, "_may_remember", lambda *_: False)
    run_exp(training_options(lab, tmp_path / "anew", per_device_train_batch_size=8, **options))
    assert len(kept) == len(found) == 6
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(kept, found, strict=True))
    found.clear()
    plain = options | {"model_name_or_path": str(lab / "base"), "neftune_noise_alpha": None}
    run_exp(training_options(lab, tmp_path / "plain", per_device_train_batch_size=8, **plain))
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(kept, found, strict=True))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "anew"), rel=1e-5)
    assert losses(tmp_path / "kept") != losses(tmp_path / "plain")  # the policy has its dropout


def test_padding_does_not_matter_and_everything_else_does() -> None:
    cache = ReferenceCache()
    one = {
        "input_ids": torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, 2, 3, -100], [-100, 5, -100, -100]]),
    }
    keys = row_keys(one)
    assert keys is not None
    assert cache.get(keys, torch.device("cpu")) is None
    cache.put(keys, torch.tensor([-1.5, -2.5]))
    longer = {
        name: torch.nn.functional.pad(t, (2, 1), value=-100 if name == "labels" else 0) for name, t in one.items()
    }
    other_keys = row_keys(longer)
    assert other_keys == keys
    found = cache.get(keys[::-1], torch.device("cpu"))
    assert found is not None
    assert found.tolist() == [-2.5, -1.5]
    for name in ("input_ids", "labels"):
        changed = {key: value.clone() for key, value in one.items()}
        changed[name][0, 1] += 1
        new = row_keys(changed)
        assert new is not None
        assert (new[0] != keys[0], new[1] == keys[1]) == (True, True)
    assert row_keys(one | {"pixel_values": torch.zeros(2)}) is None
    assert len(cache) == 2
