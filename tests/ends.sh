#!/usr/bin/env bash
# The PEFT type at both ends of the range of peft that pyproject.toml allows, each in an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
for version in "${@:-0.18.1 0.21.2}"; do
    for peft in $version; do
        home=.venv-peft-$peft
        [ -d "$home" ] || python3 -m venv "$home"
        "$home/bin/pip" install --quiet -c <(grep -v '^peft==' constraints.txt) torch
        "$home/bin/pip" install --quiet -c <(grep -v '^peft==' constraints.txt) "peft==$peft" transformers accelerate \
            pytest hypothesis hatchling matplotlib -e .
        echo "peft $peft"
        "$home/bin/python" -m pytest tests/tuner tests/subspace/test_subspace.py tests/subspace/test_lora_adapters.py tests/method/test_masks.py
    done
done
