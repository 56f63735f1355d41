"""A stand-in for a package that publishes a judge's prompt: an installed distribution with a made-up text."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from realign_plugin.evaluation.judging.guards import harmbench, strongreject, wildguard
from realign_plugin.evaluation.judging.guards.published import Published

TEXTS = {
    "wildguard": "[ask] user: {prompt} model: {response} [/ask]\n",
    "harmbench": "[ask] wanted: {behavior} got: {generation} [/ask]",
    "system": "Grade with care, {kite}.",
    "rubric": "Grade {response} to {forbidden_prompt}: 1.b, 2.b, 3.b",
}


def install(site: Path, known: Published, text: str) -> Published:
    """Write a package's file and its metadata below a folder of packages; the same text is then expected."""
    file = site / known.file
    file.parent.mkdir(parents=True, exist_ok=True)
    source = text if known.constant is None else f"import nowhere\n{known.constant} = {text!r}\n"
    file.write_bytes(source.encode())
    info = site / f"{known.package.replace('-', '_')}-{known.version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {known.package}\nVersion: {known.version}\n")
    return replace(known, sha256=hashlib.sha256(text.encode()).hexdigest())


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All packages that publish prompts, with made-up texts."""
    site = tmp_path / "site"
    for module, name, key in (
        (wildguard, "PROMPT", "wildguard"),
        (harmbench, "PROMPT", "harmbench"),
        (strongreject, "SYSTEM", "system"),
        (strongreject, "RUBRIC", "rubric"),
    ):
        monkeypatch.setattr(module, name, install(site, getattr(module, name), TEXTS[key]))
    monkeypatch.syspath_prepend(str(site))
    return site
