"""Boot: cheap, lazy, off when asked, and never in the host's way. Each case runs in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python(code: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=os.environ | env,
        timeout=120,
        check=False,
    )


def fake_host(folder: Path, name: str, text: str) -> dict[str, str]:
    file = folder.joinpath(*name.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    for parent in file.parents:
        if parent == folder:
            break
        (parent / "__init__.py").touch()
    file.write_text(text)
    return {"PYTHONPATH": str(folder)}


def test_every_interpreter_is_hooked_and_imports_nothing_heavy() -> None:
    result = python(
        """
        import sys
        assert "realign_plugin_boot" in sys.modules
        print(sorted({"torch", "peft", "realign_plugin", "importlib.metadata", "typing"} & set(sys.modules)))
        """
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_importing_the_package_is_light() -> None:
    result = python("import sys, realign_plugin, realign_plugin.cli; print('torch' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr


def test_peft_knows_the_type_on_any_import() -> None:
    result = python("import peft; print(peft.PeftType.SAFETY_SUBSPACE.value, list(peft.PeftType)[-1])")
    assert result.stdout.split() == ["SAFETY_SUBSPACE", "PeftType.SAFETY_SUBSPACE"], result.stderr


@pytest.mark.parametrize("switch", ["1", "0"])
def test_the_package_may_be_imported_before_peft(switch: str) -> None:
    names = ["SafetySubspaceConfig", "attach_subspace", "SafetySubspace"]
    result = python(
        f"""
        import os, sys
        from transformers import AutoModelForCausalLM, PreTrainedModel  # most of what peft imports, for all three
        assert not {{"peft", "realign_plugin"}} & set(sys.modules)
        for first in {names}:
            if os.fork() == 0:
                exec("from realign_plugin import " + first)
                from realign_plugin.tuner import SafetySubspaceConfig, SafetySubspaceModel
                from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
                kind = SafetySubspaceConfig(target_modules=["x"]).peft_type
                print(first, PEFT_TYPE_TO_TUNER_MAPPING[kind] is SafetySubspaceModel, flush=True)
                os._exit(0)
            os.wait()
        """,
        REALIGN_PLUGIN=switch,
    )
    assert (result.stdout.splitlines(), result.stderr) == ([f"{name} True" for name in names], "")


def test_off_means_off() -> None:
    result = python(
        """
        import sys
        from llamafactory.hparams import parser
        from llamafactory.hparams.finetuning_args import FinetuningArguments
        import peft
        print("SAFETY_SUBSPACE" in peft.PeftType.__members__, "realign_plugin" in sys.modules)
        print(parser._TRAIN_ARGS[3] is FinetuningArguments, parser.get_train_args.__module__)
        """,
        REALIGN_PLUGIN="0",
    )
    assert result.stdout.split() == ["False", "False", "True", "llamafactory.hparams.parser"], result.stderr


def test_a_hook_that_cannot_attach_warns_once_and_leaves_the_host(tmp_path: Path) -> None:
    env = fake_host(tmp_path, "llamafactory.model.adapter", "value = 1\n")
    fake_host(tmp_path, "llamafactory.train.tuner", "value = 2\n")
    result = python(
        """
        import llamafactory.model.adapter, llamafactory.train.tuner, realign_plugin_boot
        print(llamafactory.model.adapter.value + llamafactory.train.tuner.value)
        print(sorted(realign_plugin_boot.attached))
        """,
        **env,
    )
    assert result.stdout.splitlines() == ["3", "['llamafactory.model.adapter', 'llamafactory.train.tuner']"], (
        result.stderr
    )
    assert result.stderr.count("realign-plugin: cannot attach to llamafactory") == 1
    assert "Traceback" not in result.stderr


def test_an_error_of_the_host_stays_its_own(tmp_path: Path) -> None:
    env = fake_host(tmp_path, "llamafactory.model.adapter", "raise RuntimeError('the host is broken')\n")
    result = python("import llamafactory.model.adapter", **env)
    assert "RuntimeError: the host is broken" in result.stderr
    assert "cannot attach" not in result.stderr


def test_a_host_that_is_absent_is_absent() -> None:
    result = python("import llamafactory_that_is_not_there")
    assert "ModuleNotFoundError" in result.stderr


def test_installing_twice_hooks_once() -> None:
    result = python(
        """
        import sys, realign_plugin_boot
        realign_plugin_boot.install()
        print(sum(f is realign_plugin_boot._Finder for f in sys.meta_path))
        """
    )
    assert result.stdout.strip() == "1"


def test_the_boot_module_needs_the_standard_library_alone() -> None:
    result = python(f"import sys; sys.path.insert(0, {str(ROOT)!r}); import realign_plugin_boot; print('ok')", "-S")
    assert result.stdout.strip() == "ok", result.stderr


def test_start_file_names_what_the_pth_line_runs() -> None:
    assert (ROOT / "realign_plugin.pth").read_text().strip() == "import realign_plugin_boot"
    module, _, function = (ROOT / "realign_plugin.start").read_text().strip().partition(":")
    assert module == "realign_plugin_boot"
    assert callable(getattr(__import__(module), function))


@pytest.mark.parametrize("name", ["realign_plugin_boot.py", "realign_plugin.pth", "realign_plugin.start"])
def test_the_installed_copy_is_the_one_of_this_checkout(name: str) -> None:
    import sysconfig

    assert (Path(sysconfig.get_path("purelib")) / name).read_text() == (ROOT / name).read_text()
