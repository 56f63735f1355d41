"""The page as a whole: what is on it, what must not be, and how it is written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from realign_plugin.lab.report.page import write_report
from tests.lab.report.made_up_run import MadeUpRun

VOID = {"meta", "link", "br", "input", "img", "hr"}
SECTIONS = ["before-after", "both-axes", "tables", "masks", "training", "judge-and-data", "commands", "limits"]


class Outline(HTMLParser):
    """Elements, ids and texts of a page; notes tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values), encoding="utf-8")


def test_the_page_is_well_formed_and_its_links_lead_somewhere(page: str) -> None:
    outline = Outline(page)
    assert outline.wrong == []
    ids = Counter(attributes["id"] for _, attributes in outline.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [a["href"] for _, a in outline.elements if a.get("href", "").startswith("#")]
    targets += [f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", page)]
    targets += [f"#{one}" for _, a in outline.elements for one in a.get("aria-labelledby", "").split()]
    assert len(targets) > 100
    assert {target[1:] for target in targets} <= set(ids)


def test_the_page_asks_for_nothing_and_runs_nothing(page: str) -> None:
    outline = Outline(page)
    tags = {tag for tag, _ in outline.elements}
    assert not tags & {"script", "iframe", "img", "object", "embed", "form"}
    assert not any(key.startswith("on") for _, attributes in outline.elements for key in attributes)
    addresses = {a[key] for _, a in outline.elements for key in ("href", "src") if key in a}
    assert {address for address in addresses if not address.startswith("#")} == {"data:,"}
    assert not re.search(r"@import|url\((?!#)", page)
    spaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'<\s]+", page)) <= spaces


def test_sections_come_in_order_and_are_in_the_contents(page: str) -> None:
    outline = Outline(page)
    places = [page.index(f'<section id="{name}"') for name in [*SECTIONS, "provenance"]]
    assert places == sorted(places)
    contents = page[page.index("<nav") : page.index("</nav>")]
    assert re.findall(r'href="#([\w-]+)"', contents) == [
        *SECTIONS[:3], "table-1", "table-2", *SECTIONS[3:], "provenance",
    ]  # fmt: skip
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_each_chart_is_told_in_words_with_its_numbers(page: str, made_run: Path) -> None:
    charts = [a for a in Outline(page).all("svg") if a.get("role") == "img"]
    assert Counter(a["aria-label"].split()[0] for a in charts) == {"Scatter": 3, "Heat": 5, "Training": 4}
    assert all(len(re.findall(r"\d", a["aria-label"])) > 4 for a in charts)
    table = json.loads((made_run / "tables/main.json").read_text())
    row = next(r for r in table["rows"] if r["model"] == "gsm8k-paper-1-soft")
    rate, skill = (100 * row["cells"][k]["value"] for k in ("safety.harmful_rate", "gsm8k.exact_match"))
    words = next(a["aria-label"] for a in charts if a["aria-label"].startswith("Scatter of gsm8k"))
    assert (
        f"realigned (soft), seed 1: {rate:g}\N{NARROW NO-BREAK SPACE}%, {skill:g}\N{NARROW NO-BREAK SPACE}%" in words
    )


def test_charts_have_the_page_s_colours_only(page: str) -> None:
    for chart in re.findall(r"<svg[^>]*class=\"chart\".*?</svg>", page, flags=re.DOTALL):
        assert not re.search(r"(fill|stroke|color)[:=]\s*\"?#", chart)
        painted = re.findall(r"<(?:path|use|text)\b[^>]*>", chart)
        assert all("fill" in one or "stroke" in one or "<use" in one for one in painted if "<text" in one)
        names = set(re.findall(r"var\(--([\w-]+)\)", chart))
        assert {name for name in names if f"--{name}:" not in page} == set()


def test_headline_tables_cards_commands_and_limits_are_there(page: str) -> None:
    text = Outline(page).text
    for part in (
        "Across 3 groups of models, realignment took the share of harmful answers from",
        "not measured: the base model has no chat template",
        "Strength of the repair",
        "made-up-judge",
        "5,135",
        "सामान्य प्रश्न",
        "duplicate 12, empty 3",
        "llamafactory-cli train configs/gsm8k-paper-0.yaml output_dir=models/gsm8k-paper-0",
        "A repaired model is not a safe model",
        "llamafactory",
        '"model": "made-up/instruct-1b"',
    ):
        assert part in text, part


def test_a_run_gives_the_same_bytes_in_another_process(made_run: Path, page: str, tmp_path: Path) -> None:
    code = "import sys; from realign_plugin.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, "report", str(made_run), "--out", str(tmp_path / "again.html")]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}, timeout=120)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_texts_of_the_run_stay_texts(run_folder: Path) -> None:
    evil = "<script>alert(1)</script><b onclick='x'>\"'&amp; $\\frac{1}{2}$ \x00\ud800"
    for name in ("study.json", "tables/main.json", "data/preference.card.json"):
        path = run_folder / name
        values = json.loads(path.read_text())
        values |= {
            "title": evil,
            "description": evil,
            "source": evil,
            "licence": evil,
            "what": evil,
            "config": {evil: evil},
        }
        for entry in (*values.get("models", ()), *values.get("trainings", ()), *values.get("rows", ())):
            entry["label"] = evil + entry["label"]
            entry["group"] = evil if entry.get("group") == "gsm8k" else entry.get("group", "")
        for column in values.get("columns", ()):
            column["label"] = evil + column["label"]
        path.write_text(json.dumps(values))
    line = {"step": evil, "command": evil, "log": evil, "seconds": 1}
    (run_folder / "commands.jsonl").write_text(json.dumps(line) + "\n")
    text = write_report(run_folder).read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.wrong == []
    assert not outline.all("script")
    assert not any("onclick" in attributes for _, attributes in outline.elements)
    assert outline.text.count("<script>alert(1)</script>") > 30
    assert "$\\frac{1}{2}$" in outline.text
    assert "\x00" not in text


def test_a_study_of_which_nothing_is_there_yet_says_so(tmp_path: Path) -> None:
    study = {
        "title": "Begun", "tables": ["main"], "seeds": [0],
        "models": [{"id": "m", "label": "realigned", "role": "realigned", "subspace": "models/m"}],
        "trainings": [{"id": "m", "label": "m: paper", "folder": "models/m", "stage": "mask_dpo"}],
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(study))
    text = Outline(write_report(tmp_path).read_text(encoding="utf-8")).text
    for part in (
        "No headline: it needs a main table",
        "No picture: it needs a main table",
        "The table main is not there yet: tables/main.json was not written.",
        "realigned: models/m is not there.".replace("realigned", "m: paper"),
        "m: paper: no log in models/m.",
        "No results file of this run says how its answers were judged.",
        "There are no data cards",
        "No commands are on record",
        "Judge unknown",
        "The configuration was not recorded.",
    ):
        assert part in text, part


def test_an_ablation_does_not_stand_in_for_the_main_table(run_folder: Path) -> None:
    (run_folder / "tables/main.json").unlink()
    text = Outline(write_report(run_folder).read_text(encoding="utf-8")).text
    assert "No headline" in text
    assert "Strength of the repair" in text


@pytest.mark.parametrize("part", ["results", "data", "models", "commands.jsonl"])
def test_a_missing_part_does_not_stop_the_page(run_folder: Path, part: str) -> None:
    (run_folder / part).rename(run_folder / "elsewhere")
    text = Outline(write_report(run_folder).read_text(encoding="utf-8")).text
    assert "Realignment took the share of harmful answers from" in text
    assert {"results": "No results file", "data": "no data cards", "models": "is not there.",
            "commands.jsonl": "No commands"}[part] in text  # fmt: skip


def test_sixty_rows_and_twenty_columns_scroll_in_their_own_box(tmp_path: Path) -> None:
    folder = MadeUpRun(
        tmp_path, seeds=3, tasks=("gsm8k", "code", "中文", "हिन्दी", "english"), extra=11, trained=False
    ).write()
    text = write_report(folder).read_text(encoding="utf-8")
    main_table = text[text.index('id="table-1"') : text.index('id="table-2"')]
    assert main_table.count('<th scope="row"') >= 60
    assert main_table.count('<th scope="col"') == 21
    assert '<div class="scroller tall" role="region" tabindex="0"' in main_table
    assert main_table.count('scope="rowgroup"') == 7


def test_a_table_of_an_earlier_configuration_says_so(run_folder: Path) -> None:
    study = json.loads((run_folder / "study.json").read_text())
    change(run_folder / "tables" / "main.json", config=study["config"])
    change(run_folder / "tables" / "strength.json", config=study["config"] | {"model": "other"})
    said = "The table was made with an earlier configuration"
    assert said not in write_report(run_folder).read_text(encoding="utf-8")
    change(run_folder / "study.json", outdated={"main": "main", "strength": "power"})
    text = write_report(run_folder).read_text(encoding="utf-8")
    assert text.count(said) == 1
    assert said in text[text.index('id="table-2"') :]
    assert "realign study CONFIG --target power" in text
