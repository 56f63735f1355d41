"""What ``realign doctor`` finds: hosts, versions, hooks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

import realign_plugin
from realign_plugin.terminal import print_table
from realign_plugin_boot import HOOKS

HOSTS: Final = {
    host: tuple(module for module in HOOKS if module.partition(".")[0] == host.replace("-", "_"))
    for host in ("peft", "llamafactory", "mergekit", "lm-eval")
}
"""Host, and all its modules that the plugin attaches to when they are imported."""

_PROBE = """
import importlib, json, sys
for host, modules in json.loads(sys.argv[1]).items():
    for name in modules:
        importlib.import_module(name)
    boot = sys.modules.get("realign_plugin_boot")
    attached = {} if boot is None else boot.attached
    print("PROBE" + json.dumps([host, {k: v and str(v) for k, v in attached.items() if k in modules}]), flush=True)
"""


def host_states(hosts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Whether the plugin attaches to each host, tried in an interpreter of its own: a word or an error.

    The hosts are imported one after the other, as they share most of what they import; after one that cannot be
    imported, the others are tried in a new interpreter.
    """
    environment = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    states: dict[str, str] = {}
    while left := {host: list(modules) for host, modules in hosts.items() if host not in states}:
        command = [sys.executable, "-c", _PROBE, json.dumps(left)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        for line in result.stdout.splitlines():
            if line.startswith("PROBE"):
                host, attached = json.loads(line.removeprefix("PROBE"))
                states[host] = _state(hosts[host], attached)
        broken = next((host for host in left if host not in states), None)
        if broken is not None:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            states[broken] = f"the host itself cannot be imported: {last}"
    return states


def _state(modules: Sequence[str], attached: Mapping[str, str | None]) -> str:
    missing = [name for name in modules if name not in attached]
    if os.environ.get("REALIGN_PLUGIN") == "0":
        return "off (REALIGN_PLUGIN=0)" if missing else "attached"
    if missing:
        return f"not attached: no hook ran for {missing[0]}; install with pip, so that the .pth file is in place"
    failed = {name: error for name, error in attached.items() if error is not None}
    return f"not attached: {failed}" if failed else "attached"


def print_diagnosis() -> bool:
    """Print the state of each host.

    Returns:
        Whether all installed hosts are attached.
    """
    versions = {host: _version(host) for host in HOSTS}
    states = host_states({host: HOSTS[host] for host, version in versions.items() if version})
    if states.get("llamafactory") == "attached" and os.environ.get("USE_V1", "").lower() in ("1", "true", "y"):
        states["llamafactory"] += ", but USE_V1 is set: v1 has none of our stages; unset it"
    rows = [(host, version or "–", states.get(host, "not installed")) for host, version in versions.items()]
    well = all(state in ("attached", "not installed", "off (REALIGN_PLUGIN=0)") for _, _, state in rows)
    rows += [(library, _version(library) or "–", "") for library in ("torch", "transformers", "trl")]
    has_audio = importlib.util.find_spec("torchaudio") is not None
    audio = "present" if has_audio else "absent; replaced by a stand-in where LLaMA-Factory imports it"
    rows.append(("torchaudio", _version("torchaudio") or "–", audio))
    title = f"realign-plugin {realign_plugin.__version__}, Python {sys.version.split()[0]}"
    print_table(("host", "version", "plugin"), rows, title=title)
    return well


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
