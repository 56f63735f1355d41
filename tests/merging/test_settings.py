"""Parameters that would be ignored: a threshold without its mask, filters that match nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from realign_plugin import SafetySubspace
from tests.merging.conftest import Merge, configuration
from tests.merging.test_checks import refused

BY_FILTER = [{"filter": "q_proj", "value": "binary"}, {"value": "soft"}]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"threshold": 0.9}, "threshold: 0.9 with the mask soft, expected none: only binary has one"),
        ({"threshold": [0.2, 0.9]}, "threshold: 0.2 with the mask soft"),
        ({"seed": 9}, "seed: 9 with the mask soft, expected none: only sampled and relaxed have one"),
        ({"seed": 9, "mask": "binary"}, "seed: 9 with the mask binary"),
        ({"seed": 9, "mask": BY_FILTER}, "seed: 9 with the mask"),
        ({"threshold": [{"filter": "mlp", "value": 0.3}], "mask": "sampled"}, "threshold: 0.3 with the mask sampled"),
        ({"strength": [{"filter": "q_porj", "value": 0.0}, {"value": 1.0}]}, "strength: the filter 'q_porj' matches"),
        ({"mask": {"filter": "layers.7.", "value": "soft"}}, "mask: the filter 'layers.7.' matches no weight"),
        ({"strength": [{"value": 1.0}, {"filter": "mlp", "value": 0.0}]}, "strength: a value without a filter is not"),
        ({"mask": [{"filter": "*", "value": "soft"}, *BY_FILTER]}, "mask: a value without a filter is not the last"),
    ],
)
def test_what_would_be_ignored(
    yard: Path, merge: Merge, tmp_path: Path, adapter: Path, parameters: dict[str, Any], message: str
) -> None:
    refused(merge, tmp_path, configuration(yard / "fp32", adapter, **parameters), message)


def test_what_one_of_the_masks_has(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    home = yard / "fp32"
    low, high = (
        merge(configuration(home, adapter, mask=BY_FILTER, threshold=number), tmp_path / str(number))
        for number in (0.2, 0.9)
    )
    changed = [name for name in low if not torch.equal(low[name], high[name])]
    assert changed
    assert all("q_proj" in name for name in changed)
    config = configuration(home, adapter, seed=3)
    listed = config.pop("models")
    config["slices"] = [{"sources": [listed[0] | {"layer_range": part}]} for part in ([0, 1], [1, 2])]
    config["slices"][1]["parameters"] = {"mask": "sampled"}
    drawn, plain = merge(config, tmp_path / "drawn"), merge(configuration(home, adapter), tmp_path / "plain")
    changed = [name for name in plain if not torch.equal(drawn[name], plain[name])]
    assert changed
    assert all("layers.1." in name for name in changed)
    trained = SafetySubspace.load(adapter)
    trained.spec.mask = "binary"
    assert merge(configuration(home, trained.save(tmp_path / "binary"), threshold=0.3), tmp_path / "own")


def test_a_folder_in_two_spellings(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    home = yard / "fp32"
    config = configuration(home, adapter)
    config["models"] = [{"model": f"{home / 'base'}/"}]
    refused(merge, tmp_path, config, f"models: {home / 'base'}/ is the folder {home / 'base'}, expected one spelling")
    (tmp_path / "link").symlink_to(home / "full1")
    whole = SafetySubspace.from_models(home / "base", [home / "full1", home / "full2"]).save(tmp_path / "whole")
    config = configuration(home, whole, home / "full1", tmp_path / "link")
    refused(merge, tmp_path, config, f"models: {tmp_path / 'link'} is the folder {home / 'full1'}, expected")


def test_a_merge_with_the_name_of_a_role(yard: Path, merge: Merge, tmp_path: Path, adapter: Path) -> None:
    """mergekit-multi puts the folder of a merge for its name, wherever the name is."""
    from mergekit.config import MergeConfiguration
    from mergekit.scripts.multimerge import patched_config

    home = yard / "fp32"
    safe = configuration(home, adapter, home / "base", home / "full1") | {"merge_method": "safe_merge"}
    safe["parameters"] = {"task_adapter": str(home / "task1")}
    safe["models"][1]["parameters"] = {"role": "safe"}
    for config, word in ((safe, "safe"), (configuration(home, adapter, mask="soft"), "soft")):
        given = MergeConfiguration.model_validate(config)
        patched, used = patched_config(given, {word}, str(tmp_path / "work"))
        assert used == {word}
        name = "role" if word == "safe" else "mask"
        message = (
            f"{name}: {tmp_path / 'work' / word} is a path, which mergekit-multi puts for {word} where a merge has"
        )
        refused(merge, tmp_path, patched.model_dump(mode="json", exclude_none=True), message)
