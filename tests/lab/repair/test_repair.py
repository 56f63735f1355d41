"""A whole repair on pico models: real trainings by the stock command; the answers follow a rule."""

from __future__ import annotations

import html
import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from realign_plugin.lab.repair import plan, running
from realign_plugin.lab.repair.plan import QUICK_LORA
from realign_plugin.lab.study.launch import make_plan
from realign_plugin.lab.study.planning.commands import words as words_of
from realign_plugin.subspace.lora_adapters import read_lora
from tests.lab.repair.ruled import SMALL, Ruled, options_of, run

pytestmark = pytest.mark.usefixtures("small_budget")


@pytest.fixture(scope="module")
def finished(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Options of a repair that has come to its end, and what it printed; not to be changed."""
    given = options_of(materials, tmp_path_factory.mktemp("finished") / "out")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.setitem(plan.BUDGETS, "quick", SMALL)  # type: ignore[arg-type]
        patch.setattr(plan, "CPU_BATCH", 16)
        run(given)
    return given, said.getvalue()


def table(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((given["out"] / "before_after.json").read_text())
    return found


def test_prompts_in_an_adapter_out(finished: tuple[dict[str, Any], str]) -> None:
    given, said = finished
    found = table(given)
    rows = {row["model"]: row for row in found["rows"]}
    assert [row["refusal_rate"] for row in found["rows"]] == [1.0, 0.0, 1.0]
    assert rows["repaired"]["over_refusal"] == 0.0
    assert rows["repaired"]["agreement_harmful"] == 1.0
    assert 0 <= rows["repaired"]["skill_low"] <= rows["repaired"]["skill"] <= rows["repaired"]["skill_high"]
    assert rows["fine-tuned"]["skill_divergence"] == 0.0
    assert rows["aligned"]["skill_divergence"] > 0.0
    # The rule makes masks leave some kites unrefused, so LoRA has to be kept.
    assert found["kept"]["method"] == "lora"
    assert found["tried"]["masks-100"]["harmful"] > found["tried"]["lora-100"]["harmful"] == 0.0
    assert set(found["tried"]) == {"masks-100", "masks-50", "lora-100", "lora-50"}
    kept = read_lora(given["out"], "repaired")
    name = "lora" if found["kept"]["strength"] == 1.0 else "lora-50"
    trained = read_lora(given["out"] / "work" / "models" / name, "trained")
    assert all(kept.factors[m][f].equal(t) for m, pair in trained.factors.items() for f, t in pair.items())
    recipe = yaml.safe_load((given["out"] / "work" / "masks.yaml").read_text())
    assert recipe["stage"] == "safety_distill"
    assert found["verdict"]["sentence"] in html.unescape((given["out"] / "report.html").read_text())
    text = (given["out"] / "README.md").read_text()
    assert text.startswith('---\nbase_model: "base"\nlibrary_name: peft')
    assert found["verdict"]["sentence"] in text
    assert given["base"] not in text
    assert found["verdict"]["sentence"][:60] in " ".join(said.split())
    assert "To do: " in said


def test_cards_name_the_sources_that_were_given(finished: tuple[dict[str, Any], str]) -> None:
    folder = finished[0]["out"] / "work" / "data"
    for name, sources in (("repair", ["harmful.json", "benign.json"]), ("repair_skill", ["skill.json"])):
        card = json.loads((folder / f"{name}.card.json").read_text())
        assert [one["name"] for one in card["sources"]] == sources
    assert "harmful.json; benign.json" in html.unescape((finished[0]["out"] / "report.html").read_text())


@pytest.mark.usefixtures("forked")
def test_a_model_that_can_think(given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "hybrid"
    shutil.copytree(given["base"], base)
    file = base / "chat_template.jinja"
    file.write_text(file.read_text() + "{% if add_generation_prompt and enable_thinking %} paper{% endif %}")
    run(given, base=str(base), method="lora")
    assert "can think: it is asked, trained and measured without" in " ".join(capsys.readouterr().out.split())
    assert yaml.safe_load((given["out"] / "work" / "lora.yaml").read_text())["enable_thinking"] is False
    study = yaml.safe_load((given["out"] / "study.yaml").read_text())
    assert study["train"]["all"]["enable_thinking"] is False
    assert study["evaluate"]["model_args"] == {"enable_thinking": False}
    planned = make_plan(given["out"] / "study.yaml", [])
    steps = [step for step in planned.steps.values() if step.kind == "evaluate"]
    measured = [words_of(command) for step in steps for command in step.does]
    assert measured
    assert all("enable_thinking=False" in " ".join(words) for words in measured)


@pytest.mark.usefixtures("forked")
def test_without_a_skill(given: dict[str, Any]) -> None:
    run(given, skill=[])
    found = table(given)
    assert [row["refusal_rate"] for row in found["rows"]] == [1.0, 0.0, 1.0]
    assert not any("skill" in row for row in found["rows"])
    recipe = yaml.safe_load((given["out"] / "work" / "lora.yaml").read_text())
    assert recipe["dataset"] == "repair"
    assert recipe["distill_skill_weight"] == 0.0
    assert "skill" not in found["verdict"]["sentence"]


@pytest.mark.usefixtures("forked")
def test_killed_at_three_points_it_ends_with_the_same_table(
    finished: tuple[dict[str, Any], str], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Ruled.stops_after = 2  # in the middle of the on-policy answers
    with pytest.raises(KeyboardInterrupt):
        run(given)
    assert not (given["out"] / "work" / "data" / "done.json").exists()
    Ruled.stops_after = 10**6
    looked = running._step

    def at_a_checkpoint(folder: Path) -> int:
        if folder.name == "lora" and any(folder.glob("checkpoint-*/trainer_state.json")):
            raise KeyboardInterrupt
        return looked(folder)

    monkeypatch.setattr(running, "LOOK", 0.02)
    monkeypatch.setattr(running, "_step", at_a_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        run(given)
    assert (given["out"] / "work" / "done" / "masks.json").exists()
    assert not (given["out"] / "work" / "done" / "lora.json").exists()
    monkeypatch.setattr(running, "_step", looked)
    recipe = (given["out"] / "work" / "lora.yaml").read_text()
    monkeypatch.chdir(given["out"].parent)
    Ruled.stops_after = 12  # while it measures
    with pytest.raises(KeyboardInterrupt):
        run(given, out=Path("out"))  # the same folder
    assert (given["out"] / "work" / "lora.yaml").read_text() == recipe
    assert not (given["out"] / "before_after.json").exists()
    Ruled.stops_after = 10**6
    run(given)
    assert table(given) == table(finished[0])
    (given["out"] / "study.yaml").write_text("more: seeds\n")
    run(given)
    assert (given["out"] / "study.yaml").read_text() == "more: seeds\n"  # the user's own
    kept = table(given)["kept"]
    assert (given["out"] / "work" / "measured" / "test" / f"{kept['method']}-{100 * kept['strength']:g}.json").exists()


@pytest.mark.usefixtures("forked")
def test_a_training_that_was_begun_with_other_options_starts_again(given: dict[str, Any]) -> None:
    """An earlier version's defaults, for example: no training is half the one, half the other."""
    work = given["out"] / "work"
    folder = work / "models" / "lora"
    (folder / "checkpoint-1").mkdir(parents=True)
    (work / "lora.yaml").write_text("learning_rate: 9.0\n")
    run(given, method="lora")
    assert not (folder / "checkpoint-1").exists()  # a training of this budget saves after 2 steps
    assert yaml.safe_load((work / "lora.yaml").read_text()).items() >= QUICK_LORA.items()


@pytest.mark.usefixtures("forked")
def test_a_second_run_does_nothing_again(given: dict[str, Any]) -> None:
    study = given["out"] / "study.yaml"
    study.parent.mkdir()
    study.write_text("title: another repair\n")
    run(given, method="lora", overwrite=True)
    assert yaml.safe_load(study.read_text())["title"] == "Repair of tuned"
    study.write_text("more: seeds\n")
    files = {path: path.stat().st_mtime_ns for path in (given["out"] / "work" / "models").rglob("*.safetensors")}
    Ruled.stops_after = 0
    run(given, method="lora")
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert study.read_text() == "more: seeds\n"
