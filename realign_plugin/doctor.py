"""What ``realign doctor`` finds: hosts, versions, hooks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata

import realign_plugin
from realign_plugin.terminal import print_table

HOSTS = {
    "peft": ("peft",),
    "llamafactory": (
        "llamafactory.hparams.parser",
        "llamafactory.model.adapter",
        "llamafactory.train.tuner",
        "llamafactory.launcher",
    ),
    "mergekit": ("mergekit.merge_methods.registry", "mergekit.merge"),
    "lm-eval": ("lm_eval.tasks.manager", "lm_eval.evaluator", "lm_eval._cli.harness"),
}
"""Host, and the modules whose import attaches the plugin to it."""

_PROBE = """
import importlib, json, sys
for name in {modules!r}:
    importlib.import_module(name)
boot = sys.modules.get("realign_plugin_boot")
state = {{}} if boot is None else {{k: (None if v is None else str(v)) for k, v in boot.attached.items()}}
print("PROBE" + json.dumps(state))
"""


def host_state(modules: tuple[str, ...]) -> str:
    """Whether the plugin attaches to a host, tried in an interpreter of its own: a word or an error."""
    environment = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _PROBE.format(modules=modules)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    line = next((part for part in result.stdout.splitlines() if part.startswith("PROBE")), None)
    if line is None:
        return f"the host itself cannot be imported: {(result.stderr.strip().splitlines() or ['no message'])[-1]}"
    state = json.loads(line.removeprefix("PROBE"))
    missing = [name for name in modules if name not in state]
    if os.environ.get("REALIGN_PLUGIN") == "0":
        return "off (REALIGN_PLUGIN=0)" if missing else "attached"
    if missing:
        return f"not attached: no hook ran for {missing[0]}; install with pip, so that the .pth file is in place"
    failed = {name: error for name, error in state.items() if error is not None}
    return f"not attached: {failed}" if failed else "attached"


def print_diagnosis() -> bool:
    """Print the state of each host.

    Returns:
        Whether all installed hosts are attached.
    """
    rows, well = [], True
    for host, modules in HOSTS.items():
        version = _version(host)
        state = host_state(modules) if version else "not installed"
        well = well and state in ("attached", "not installed", "off (REALIGN_PLUGIN=0)")
        rows.append((host, version or "–", state))
    rows += [(library, _version(library) or "–", "") for library in ("torch", "transformers", "trl")]
    has_audio = importlib.util.find_spec("torchaudio") is not None
    audio = "present" if has_audio else "absent; stood in for where LLaMA-Factory imports it"
    rows.append(("torchaudio", _version("torchaudio") or "–", audio))
    title = f"realign-plugin {realign_plugin.__version__}, Python {sys.version.split()[0]}"
    print_table(("host", "version", "plugin"), rows, title=title)
    return well


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
