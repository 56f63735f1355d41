"""Settings: metadata over environment over defaults; one line for what is wrong; no key among them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from realign_plugin import UserError
from realign_plugin.evaluation.judging.settings import EvaluationSettings, cache_folder, named_by_environment
from tests.mutations import ODD, refusal

KEY = {"OPENAI_API_KEY": "sk-unmistakable"}


def test_defaults() -> None:
    assert EvaluationSettings.load({}, {}).judge == "off"
    settings = EvaluationSettings.load({}, KEY)
    assert (settings.judge, settings.judge_model, settings.judge_concurrency) == ("openai", "gpt-3.5-turbo", 32)
    assert settings.judge_cache == cache_folder()
    assert settings.reference is None
    assert "sk-" not in repr(settings) + settings.model_dump_json()


def test_what_only_the_environment_names() -> None:
    environ = KEY | {"REALIGN_JUDGE_MODEL": "small", "REALIGN_JUDGE_RETRIES": "2", "REALIGN_DATA": "/data"}
    both = {"judge": "openai", "judge_model": "small", "safety_data": "/data"}
    assert named_by_environment({}, environ) == both
    assert EvaluationSettings.load(both, KEY).chosen == EvaluationSettings.load({}, environ).chosen
    assert named_by_environment({"judge": "local", "judge_model": "x"}, environ) == {"safety_data": "/data"}
    for off in ({"judge": "off"}, {"judge": False}):
        assert named_by_environment(off, environ) == {"safety_data": "/data"}
    assert named_by_environment({}, environ | {"REALIGN_JUDGE": "off"}) == {"safety_data": "/data"}
    assert named_by_environment({}, {"REALIGN_JUDGE_MODEL": "small"}) == {}
    assert named_by_environment({}, {"REALIGN_JUDGE": "local"}) == {"judge": "local"}


def test_metadata_before_environment_before_defaults() -> None:
    environ = KEY | {
        "REALIGN_JUDGE_MODEL": "from-environment",
        "REALIGN_JUDGE_CONCURRENCY": "4",
        "REALIGN_DATA": "/data",
        "REALIGN_REFERENCE": "/reference",
        "REALIGN_JUDGE_ORDER": "single",
    }
    settings = EvaluationSettings.load({"judge_model": "from-metadata", "pretrained": "x", "dtype": "auto"}, environ)
    assert (settings.judge_model, settings.judge_concurrency, settings.judge_order) == ("from-metadata", 4, "single")
    assert (settings.safety_data, settings.reference) == (Path("/data"), Path("/reference"))
    assert EvaluationSettings.load({"judge": False}, KEY).judge == "off"
    assert EvaluationSettings.load({"judge": "off"}, KEY).judge == "off"
    assert EvaluationSettings.load({}, KEY | {"REALIGN_JUDGE": "off"}).judge == "off"


@pytest.mark.parametrize(
    ("metadata", "environ", "message"),
    [
        ({"judge": "openai"}, {}, "judge: 'openai' needs OPENAI_API_KEY, which is not set"),
        (
            {"judge": "gpt"},
            KEY,
            "judge: 'gpt' is unknown, expected one of off, openai, openai_tags, llama_guard, .*local$",
        ),
        ({"judge_modle": "x"}, KEY, "'judge_modle' is unknown, .*; did you mean 'judge_mode'?"),
        ({"judge_concurrency": 0}, KEY, "judge_concurrency: 0 is wrong: input should be greater than or equal to 1"),
        ({"judge_concurrency": "many"}, KEY, "judge_concurrency: 'many' is wrong"),
        ({}, KEY | {"REALIGN_JUDGE_TIMEOUT": "-1"}, "judge_timeout: '-1' is wrong.*REALIGN_JUDGE_TIMEOUT"),
        ({"judge_timeout": float("inf")}, KEY, "judge_timeout: inf is wrong: input should be a finite number"),
        ({"judge_price_prompt": float("nan")}, KEY, "judge_price_prompt: nan is wrong"),
        ({"judge_order": "random"}, KEY, "judge_order: 'random' is wrong"),
        ({"judge_max_unjudged": 2}, KEY, "judge_max_unjudged: 2 is wrong"),
        ({"judge_model": ""}, KEY, "judge_model: '' is wrong"),
        ({}, {"OPENAI_API_KEY": "sk-unmistakable\n"}, "OPENAI_API_KEY: holds white space at an end"),
        ({}, {"OPENAI_API_KEY": "sk-unmistäkable"}, "OPENAI_API_KEY: .*letters outside ASCII"),
        ({}, KEY | {"OPENAI_BASE_URL": "localhost:8000"}, "OPENAI_BASE_URL: 'localhost:8000' is not an address"),
        ({}, KEY | {"OPENAI_BASE_URL": "http://sk-a:sk-b@h:99999/v1?sk-c"}, "OPENAI_BASE_URL: 'http://h:99999/v1' is"),
        ({}, KEY | {"OPENAI_BASE_URL": "http://[::1/v1"}, "OPENAI_BASE_URL: .* is not an address"),
    ],
)
def test_mistakes(metadata: dict[str, Any], environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        EvaluationSettings.load(metadata, environ)
    assert "\n" not in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_home_is_meant_by_a_tilde() -> None:
    settings = EvaluationSettings.load({"judge_cache": "~/c", "reference": "~/r"}, {"REALIGN_DATA": "~/d"})
    assert (settings.judge_cache, settings.reference, settings.safety_data) == tuple(
        Path.home() / name for name in "crd"
    )


def test_without_a_judge_its_server_is_of_no_interest() -> None:
    assert EvaluationSettings.load({}, {"OPENAI_BASE_URL": "nonsense"}).judge == "off"


def test_the_cache_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == Path("/somewhere/realign")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder().parts[-3:] == ("Library", "Caches", "realign")


@pytest.mark.parametrize("name", list(EvaluationSettings.model_fields))
def test_odd_values_are_taken_or_refused_in_one_line(name: str) -> None:
    for value in [*ODD, "~nobody_here/x", "a\x00b", "x" * 5000]:
        message = refusal(lambda value=value: EvaluationSettings.load({name: value}, {}), f"{name}: {value!r}")
        assert message is None or ("\n" not in message and len(message) < 500)


@pytest.mark.parametrize("address", ["http://user:secret@host/v1", "http://host/v1?key=secret", "http://a,http://u@b"])
def test_an_address_with_secrets_is_not_written_down(address: str) -> None:
    with pytest.raises(UserError) as caught:
        EvaluationSettings.load({"judge": "openai", "judge_url": address}, {"OPENAI_API_KEY": "none"})
    assert str(caught.value).startswith("judge_url: http://")
    assert "secret" not in str(caught.value)
    assert "u@" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"), [("refrence", "reference"), ("safety_dta", "safety_data"), ("judge_modell", "judge_model")]
)
def test_a_name_that_is_nearly_ours_is_refused(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"metadata: '{name}' is unknown, expected .*; did you mean '{near}'"):
        EvaluationSettings.load({name: "x"}, {})


def test_a_models_arguments_are_left_alone() -> None:
    """lm-eval adds them to the metadata."""
    pytest.importorskip("lm_eval")
    from lm_eval.models.api_models import TemplateAPI
    from lm_eval.models.huggingface import HFLM

    names = [name for model in (HFLM, TemplateAPI) for name in inspect.signature(model).parameters]
    assert len(names) > 50
    EvaluationSettings.load(dict.fromkeys([*names, "version", "max_seq_lengths"], "x"), {})
