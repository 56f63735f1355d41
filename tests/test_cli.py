"""The command ``realign``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from realign_plugin import SafetySubspace
from realign_plugin.cli import main
from realign_plugin.doctor import HOSTS, host_states
from realign_plugin.subspace.lora_adapters import read_lora


def realign(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    code = caught.value.code
    return (0 if code is None else int(code)), captured.out, captured.err


@pytest.fixture
def saved(subspace: Any, tmp_path: Path) -> Path:
    return Path(subspace.save(tmp_path / "subspace"))


def test_export_writes_the_mask_that_is_asked_for(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = realign(
        capsys, "export", saved, tmp_path / "l", "--mask", "sampled", "--seed", 7, "--dtype", "bf16"
    )
    assert code == 0
    assert "rank 4 (vLLM: --max-lora-rank 8), mask sampled, bf16" in out
    found = read_lora(tmp_path / "l", "").factors
    for module, pair in SafetySubspace.load(saved).effective("sampled", seed=7).items():
        assert all(torch.equal(found[module][f], pair[f].bfloat16()) for f in "AB")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "nowhere", "out"], "error: adapter: nowhere does not exist"),
        (["export", "{saved}", "out", "--mask", "hard"], "error: mask: 'hard' is unknown"),
        (["export", "{saved}", "out", "--threshold", "2"], "error: mask_threshold: 2.0 is out of range"),
        (["export", "{saved}", "out", "--dtype", "fp8"], "error: dtype: 'fp8' is unknown"),
        (["export", "{saved}", "{saved}/adapter_config.json"], "is a file, expected a folder"),
        (["inspect", "{saved}", "--plot", "x.jpg"], "error: --plot: x.jpg does not end in .png"),
        (["inspect", "{lab}/aligned"], "peft_type 'LORA', expected 'SAFETY_SUBSPACE'"),
        (["judge", "x", "--metadata", "[1]"], "error: --metadata: '[1]' is a list, expected an object such as"),
        (["judge", "x", "--metadata", "{{"], "error: --metadata: '{' is not JSON (line 1 column 2"),
        (["compare", "[/red]=[bold]"], "error: results: [bold] cannot be read (No such file"),
        (["transfer", "{saved}", "out", "--task-adapter", "nowhere"], "error: --task-adapter: nowhere does not exist"),
        (["transfer", "{saved}", "out", "--task-adapter", "{lab}/aligned"], "(the task vector is 0)"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    saved: Path,
    lab: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = realign(capsys, *(word.format(saved=saved, lab=lab) for word in words))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_transfer_writes_the_mask_on_the_other_task(
    saved: Path, lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("transfer", saved, tmp_path / "t", "--task-adapter", lab / "task3", "--task-weight", "0.5")
    code, out, _ = realign(capsys, *words)
    assert code == 0
    assert "4 modules" in out
    moved, trained = SafetySubspace.load(tmp_path / "t"), SafetySubspace.load(saved)
    direct = SafetySubspace.from_adapters(lab / "aligned", [lab / "task3"], task_weight=0.5)
    for module, pair in moved.deltas[0].items():
        for factor, tensor in pair.items():
            assert torch.equal(tensor, direct.deltas[0][module][factor])
            assert torch.equal(moved.logits[module][factor], trained.logits[module][factor])


def test_inspect_prints_and_draws(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = realign(capsys, "inspect", saved, "--plot", tmp_path / "p.png")
    assert code == 0
    assert "model.layers.1.self_attn.v_proj" in out
    assert "all 4 modules" in out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_numbers(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = realign(capsys, "inspect", saved, "--mask", "binary", "--json")
    rows = {row["module"]: row for row in json.loads(out)["modules"]}
    subspace = SafetySubspace.load(saved)
    for module, logits in subspace.logits.items():
        flat = torch.cat([logits[f].flatten() for f in "AB"]).double()
        deltas = subspace.deltas[0][module]
        assert rows[module]["elements"] == flat.numel()
        assert rows[module]["mean"] == pytest.approx(float(torch.sigmoid(flat).mean()), abs=1e-6)
        assert rows[module]["kept"] == pytest.approx(float((flat > 0).double().mean()), abs=1e-9)
        before = sum(float(deltas[f].double().square().sum()) for f in "AB") ** 0.5
        assert rows[module]["norm_before"] == pytest.approx(before, rel=1e-6)
        after = 0.0
        for f in "AB":
            mask = (logits[f] >= 0).double()
            after += float((deltas[f].double() * mask / mask.mean()).square().sum())
        assert rows[module]["norm_after"] == pytest.approx(after**0.5, rel=1e-5)


def test_tasks_path_is_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = realign(capsys, "tasks-path")
    assert code == 0
    assert Path(out.strip()).is_dir()
    assert Path(out.strip()).name == "lm_eval_tasks"


@pytest.mark.cli
def test_doctor(run_stock: Callable[..., Any]) -> None:
    result = run_stock("realign", "doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    for host in ("peft", "llamafactory"):
        line = next(part for part in result.stdout.splitlines() if f" {host} " in part)
        assert "attached" in line
        assert "not attached" not in line
    off = run_stock("realign", "doctor", env={"REALIGN_PLUGIN": "0"})
    assert off.stdout.count("off (REALIGN_PLUGIN=0)") >= 1, off.stdout + off.stderr


@pytest.mark.parametrize("module", ["peft", "llamafactory.extras.constants", "llamafactory.webui.runner"])
def test_doctor_names_any_hook_that_failed(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    breaks = f"import realign_plugin_boot as b\nb.HOOKS[{module!r}] = ('after', 'no_such_module', 'attach')\n"
    (tmp_path / "sitecustomize.py").write_text(breaks)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    host = module.partition(".")[0]
    found = host_states({host: HOSTS[host]})[host]
    assert found.startswith("not attached: ")
    assert module in found
    assert "No module named 'no_such_module'" in found


def test_doctor_goes_on_after_a_host_that_is_broken() -> None:
    found = host_states({"first": ["json"], "broken": ["no_such_module"], "last": ["csv"]})
    assert (
        found["broken"] == "the host itself cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert [found[host].partition(";")[0] for host in ("first", "last")] == [
        "not attached: no hook ran for json", "not attached: no hook ran for csv",
    ]  # fmt: skip


def test_doctor_says_that_v1_has_no_stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("realign_plugin.doctor.host_states", lambda hosts: dict.fromkeys(hosts, "attached"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("USE_V1", "1")
    code, out, _ = realign(capsys, "doctor")
    assert code == 1
    assert "USE_V1 is set: v1 has none of our stages; unset it" in out
    monkeypatch.setenv("USE_V1", "0")
    code, out, _ = realign(capsys, "doctor")
    assert code == 0
    assert "USE_V1" not in out


def test_fuse_sums_task_vectors_without_a_mask(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [lab / "task1", lab / "task2"]
    words = ["fuse", tmp_path / "f", *tasks, "--aligned", lab / "aligned", "--task-weight", "0.5,0.25"]
    code, out, _ = realign(capsys, *words)
    assert code == 0
    assert "2 task vectors fused by task_arithmetic" in out
    found = read_lora(tmp_path / "f", "").factors
    safe, first, second = (read_lora(lab / name, "").factors for name in ("aligned", "task1", "task2"))
    for module, pair in found.items():
        for factor in "AB":
            start = safe[module][factor].double()
            moved = [f[module][factor].double() - start for f in (first, second)]
            torch.testing.assert_close(
                pair[factor].double(), start + 0.5 * moved[0] + 0.25 * moved[1], atol=1e-6, rtol=0
            )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task-weight", "half"], "error: --task-weight: 'half', expected a number"),
        (["--task-weight", "1,2"], "error: task_weight"),
        (["--method", "tie"], "error: fusion_method: 'tie' is unknown"),
    ],
)
def test_fuse_says_what_is_wrong(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, _, err = realign(capsys, "fuse", tmp_path / "f", lab / "task1", "--aligned", lab / "aligned", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "f").exists()
