"""What a checkpoint has to have in common with the run that goes on from it; the rest is in training/test_resuming."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from realign_plugin import UserError
from realign_plugin.subspace.spec import SubspaceSpec
from realign_plugin.subspace.training_record import KEY, TrainingRecord


def test_a_base_model_by_its_fingerprint() -> None:
    spec = SubspaceSpec(base_sha256={"architecture": "a" * 64, "weights": "b" * 64})
    record = TrainingRecord.of("mask_dpo", "safety_subspace", spec)
    for same in ({}, {"architecture": "a" * 64}, {"config": "c" * 64, "weights": "b" * 64}):
        record.check(replace(record, base_sha256=same), "checkpoint-1", "")
    with pytest.raises(
        UserError, match=r"checkpoint-1 is of a training with another base model \(sha256 of its weights"
    ):
        record.check(replace(record, base_sha256={"weights": "d" * 64}), "checkpoint-1", "leave it")


def test_names_of_sources_may_change() -> None:
    source = {"role": "task", "name": "one", "sha256": "a" * 64, "weight": 1.0}
    record = TrainingRecord.of("mask_dpo", "safety_subspace", SubspaceSpec(sources=[source]))
    record.check(replace(record, sources=[source | {"name": "two"}]), "checkpoint-1", "")
    with pytest.raises(UserError, match=r"the sources one .*, expected the sources one "):
        record.check(replace(record, sources=[source | {"sha256": "b" * 64}]), "checkpoint-1", "")


@pytest.mark.parametrize("state", [None, {}, {KEY: None}, {KEY: {"stage": "sft"}}])
def test_a_record_that_cannot_be_read(state: object) -> None:
    assert TrainingRecord.read(state) is None


def test_a_record_that_can() -> None:
    record = TrainingRecord.of("safety_distill", "lora", SubspaceSpec())
    assert TrainingRecord.read({KEY: asdict(record)}) == record
