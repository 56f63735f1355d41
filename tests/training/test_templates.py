from __future__ import annotations

import json
from pathlib import Path

import pytest

from realign_plugin.errors import UserError
from realign_plugin.training.templates import check_template, has_chat_template, known_templates, replacing_templates


def test_the_templates_are_those_that_llamafactory_registers() -> None:
    from llamafactory.data.template import TEMPLATES

    assert set(known_templates()) == set(TEMPLATES)
    assert set(replacing_templates()) == {name for name, one in TEMPLATES.items() if one.replace_jinja_template}


def test_a_template_that_is_misspelt_names_near_ones() -> None:
    check_template("llama3", Path("nowhere"))
    with pytest.raises(UserError, match=r"template: 'lama3' is unknown, expected one of .*llama3"):
        check_template("lama3", Path("nowhere"))


def test_a_model_without_a_chat_template_needs_one(tmp_path: Path, lab: Path) -> None:
    check_template(None, Path("org/on-the-hub"))
    check_template(None, lab / "base")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    assert (has_chat_template(tmp_path), has_chat_template(lab / "base"), has_chat_template(Path("x"))) == (
        False,
        True,
        None,
    )
    with pytest.raises(UserError, match="add `template: NAME`"):
        check_template(None, tmp_path)
