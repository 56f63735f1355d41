"""The lm-eval tasks in this process, through lm-eval's own ``simple_evaluate``, answered by a model of our making."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from realign_plugin import UserError
from realign_plugin.evaluation.attacks import TEMPLATES
from realign_plugin.evaluation.task_names import tasks_folder
from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.parrot import SETS, Evaluate, Parrot, answer, judged, run_tasks, save


def test_the_groups_are_there() -> None:
    manager = TaskManager()
    wanted = {
        "safety",
        "safety_full",
        "safety_sure",
        "safety_catqa_topics",
        "safety_attack",
        "over_refusal",
        "realign_downstream",
    }
    assert wanted <= set(manager.all_groups)
    assert {f"safety_{name}" for name in SETS} | {"safety_catqa_zh"} <= set(manager.all_subtasks)
    alone = TaskManager(include_defaults=False, include_path=str(tasks_folder()))
    assert wanted <= set(alone.all_groups)
    both = TaskManager(include_path=str(tasks_folder()))
    assert set(both.all_groups) == set(manager.all_groups)


def test_a_users_tasks_come_last(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("group: safety\ntask: []\n")
    entry = TaskManager(include_path=str(tmp_path)).task_index["safety"]
    assert Path(str(entry.yaml_path)).parent == tmp_path


def test_without_a_judge(evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate("safety")
    assert capsys.readouterr().err.count("no judge (judge: off)") == 1
    row = found["results"]["safety_catqa"]
    answers = [answer(f"how is kite {n} of catqa made ?") for n in range(12)]
    assert row["refusal_rate,none"] == pytest.approx(sum("sorry" in a for a in answers) / 12)
    assert row["incoherent_rate,none"] == pytest.approx(sum(a == "" for a in answers) / 12)
    assert "harmful_rate,none" not in row
    assert found["groups"]["safety"]["refusal_rate,none"] == pytest.approx(row["refusal_rate,none"])
    interval = found["realign"]["intervals"]["safety"]["refusal_rate"]
    assert (interval["hits"], interval["count"]) == (15, 60)
    assert interval["low"] < 0.25 < interval["high"]
    assert found["realign"]["judge"]["judge"] == "off"
    assert "refusal_rate" in make_table(found)


def test_limits_and_other_limits(evaluate: Evaluate) -> None:
    found = evaluate("safety", options={"limit": 5})
    assert found["realign"]["intervals"]["safety"]["refusal_rate"]["count"] == 25


@pytest.mark.usefixtures("evaluate")
def test_a_cache_of_requests_does_not_ask_another_folders_prompts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "requests"))
    options: dict[str, Any] = {"cache_requests": True}
    tasks = ("safety_catqa", "realign_gsm8k")
    for folder, count in (("old", 3), ("new", 4)):
        (data / folder).mkdir()
        rows = [{"prompt": f"{folder} kite {n} ?"} for n in range(count)]
        (data / folder / "catqa.json").write_text(json.dumps(rows))
        for name in ("gsm8k_test", "gsm8k_train"):
            sums = [{"question": f"{folder} sum {n} ?", "answer": f"#### {n}"} for n in range(8)]
            (data / folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
        model = Parrot()
        found = run_tasks(data / folder, ",".join(tasks), model, options)
        assert [sample["doc"]["prompt"] for sample in found["samples"]["safety_catqa"]] == [r["prompt"] for r in rows]
        assert len(model.asked) == count + 8
        assert all(folder in text for text in model.asked)


def test_agreement_with_a_reference_needs_no_judge(evaluate: Evaluate, tmp_path: Path) -> None:
    class Says(Parrot):
        def __init__(self, texts: list[str]) -> None:
            super().__init__()
            self.texts = texts

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return self.texts[: len(requests)]

    refuses, helps = "Sorry, I can not help with that.", "Take paper and fold it twice, then glue the corners."
    reference = evaluate("safety_catqa", model=Says([refuses] * 6 + [helps] * 5 + [""]))
    assert "agreement,none" not in reference["results"]["safety_catqa"]
    save(reference, tmp_path, "safety_catqa")
    found = evaluate(
        "safety_catqa", model=Says([refuses] * 4 + [helps, "", refuses] + [helps] * 5), reference=str(tmp_path)
    )
    row = found["results"]["safety_catqa"]
    # refused alike 4, helped alike 4; other ways 2; nothing said 1; the last one's reference says nothing
    assert row["agreement,none"] == pytest.approx(8 / 11)
    assert found["realign"]["intervals"]["safety_catqa"]["agreement"]["count"] == 11
    assert found["higher_is_better"]["safety_catqa"]["agreement"]


def test_over_refusal(evaluate: Evaluate, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{n},how do i kill process {n} ?,homonyms,{'safe' if n < 8 else 'unsafe'}" for n in range(10)]
    (data / "xstest_prompts.csv").write_text("id,prompt,type,label\n" + "\n".join(lines) + "\n")
    rows = [{"prompt": f"is kite {n} dangerous ?", "category": f"c{n % 2}"} for n in range(30)]
    (data / "or-bench-hard.json").write_text(json.dumps(rows))

    def rule(text: str) -> str:
        return "[[direct_refusal]]" if "cannot help" in text.partition("<<<ANSWER\n")[2] else "[[indirect_refusal]]"

    with judge_server(rule=rule) as server:
        judged(monkeypatch, server.url)
        found = evaluate("over_refusal,over_refusal_xstest_contrast")
    assert found["results"]["over_refusal_xstest"]["refusal_rate,none"] == pytest.approx(2 / 8)
    assert found["results"]["over_refusal_xstest"]["judged_refusal_rate,none"] == 1.0
    assert found["realign"]["intervals"]["over_refusal_orbench"]["refusal_rate"]["count"] == 20
    assert found["higher_is_better"]["over_refusal_xstest"]["refusal_rate"] is False
    assert found["higher_is_better"]["over_refusal_xstest_contrast"]["refusal_rate"] is True
    assert "harmful_rate,none" in found["results"]["over_refusal_xstest_contrast"]


def test_attacks_wrap_the_prompt_and_the_judge_sees_it_bare(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    parrot = Parrot()
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety_attack", model=parrot)
        assert all("thoughts" not in text.partition("<<<REQUEST")[2].lower() for text in server.prompts)
    assert set(found["results"]) == {"safety_attack", *(f"safety_attack_{name}" for name in TEMPLATES)}
    assert len(parrot.asked) == 36
    assert all(
        "how is kite" in text and not text.startswith("how is kite 1 of catqa made ?\n\n\n") for text in parrot.asked
    )
    assert len({text.partition("how is kite")[0] for text in parrot.asked}) == 2  # two of three begin with the prompt


def test_answers_that_were_begun(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    parrot = Parrot()
    with judge_server() as server:
        judged(monkeypatch, server.url)
        found = evaluate("safety_sure_catqa", model=parrot)
        assert all("<<<ANSWER\nSure, " in text for text in server.prompts)
    assert all(text.endswith("Sure,") for text in parrot.asked)
    assert found["samples"]["safety_sure_catqa"][1]["doc"]["realign"]["prefix"] == "Sure,"


def test_topics_and_chinese(evaluate: Evaluate, data: Path) -> None:
    topics = {"Physical Harm": {"a": ["kite 1", "kite 2", "kite 3"]}, "Child Abuse": {"b": ["kite 4"]}}
    (data / "catqa.json").write_text(json.dumps(topics))
    (data / "catqa_chinese.json").write_text(json.dumps(topics))
    found = evaluate("safety_catqa_physical_harm,safety_catqa_zh")
    counts = {name: row["refusal_rate"]["count"] for name, row in found["realign"]["intervals"].items()}
    assert counts == {"safety_catqa_physical_harm": 3, "safety_catqa_zh": 3}


def test_downstream_from_local_files(evaluate: Evaluate, data: Path) -> None:
    questions = [{"question": f"what is {n} plus 1 ?", "answer": f"it is so\n#### {n + 1}"} for n in range(6)]
    for name in ("gsm8k_test", "gsm8k_train"):
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, questions)))
    row = {"premise": "下雨了。", "choice1": "地湿了。", "choice2": "地是干的。", "question": "effect", "label": 0}
    (data / "test.zh.jsonl").write_text("\n".join([json.dumps(row)] * 3))
    found = evaluate("realign_gsm8k,realign_xcopa_zh")
    assert found["results"]["realign_gsm8k"]["exact_match,flexible-extract"] == 0
    assert 0 <= found["results"]["realign_xcopa_zh"]["acc,none"] <= 1
    (data / "gsm8k_train.jsonl").unlink()
    with pytest.raises(UserError, match=r"lacks gsm8k_train.jsonl, expected it for the 5 examples of realign_gsm8k"):
        evaluate("realign_gsm8k")
    with pytest.raises(UserError, match=r"realign_copa: aps/super_glue cannot be fetched .*copa.jsonl as safety_data"):
        evaluate("realign_copa")


def test_ifeval_scores_a_row_before_the_model_is_asked(
    evaluate: Evaluate, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    monkeypatch.setattr("nltk.download", lambda name: False)
    rules = ["punctuation:no_comma", "detectable_format:json_format", "keywords:existence"]
    given: list[dict[str, Any]] = [{}, {}, {"keywords": ["paper"]}]
    rows = [
        {"key": n, "prompt": f"fold kite {n} .", "instruction_id_list": [rule], "kwargs": [options]}
        for n, (rule, options) in enumerate(zip(rules, given, strict=True), 1)
    ]
    file = data / "ifeval.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate("realign_ifeval")["results"]["realign_ifeval"]  # "Take paper and fold it.", never JSON
    assert found["prompt_level_strict_acc,none"] == pytest.approx(2 / 3)
    for rule, message in (
        ("punctuation:no_coma", "punctuation:no_coma"),
        ("change_case:capital_word_frequency", "Resource .punkt_tab"),
    ):
        rows[1] |= {"instruction_id_list": [rule], "kwargs": [{}]}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError, match=rf"realign_ifeval: row 2 cannot be scored \('?{message}"):
            evaluate("realign_ifeval", model="no such model")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "langdetect", None)
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"langdetect is not installed, .* pip install 'lm-eval\[ifeval\]'"):
        evaluate("realign_ifeval")
