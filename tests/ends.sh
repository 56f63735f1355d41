#!/usr/bin/env bash
# Other versions than those of constraints.txt, each in an environment of its own:
#     tests/ends.sh [peft-0.18.1] [peft-0.21.2] [train] [newest]
# peft-…  the PEFT type at both ends of the range of peft that pyproject.toml allows.
# train   LLaMA-Factory with the newest peft that it runs with, 0.20.0. Its metadata ask for 0.18.1 at most: hence --no-deps.
#         LLAMAFACTORY=FOLDER takes a checkout, of its main say (which excludes transformers 5.6.0), and
#         TRANSFORMERS=VERSION another transformers.
# newest  mergekit and lm-eval with the newest transformers.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1

environment() { # NAME EXTRAS PACKAGE...: EXTRAS as constraints.txt has them, but for the packages
    home=.venv-$1
    [ -d "$home" ] || python3 -m venv "$home"
    local pins
    pins=$(grep -vE "^($(printf '%s\n' "${@:3}" | sed 's/[=<>].*//' | paste -sd '|'))==" constraints.txt)
    "$home/bin/pip" install --quiet -c <(echo "$pins") torch
    "$home/bin/pip" install --quiet -c <(echo "$pins") "${@:3}" pytest hypothesis hatchling matplotlib -e ".$2"
    "$home/bin/python" -c "import torch; raise SystemExit(torch.version.cuda is None)" \
        || "$home/bin/pip" uninstall --quiet --yes torchvision torchaudio
}

for end in "${@:-peft-0.18.1 peft-0.21.2 train newest}"; do
    for name in $end; do
        echo "$name"
        case $name in
            peft-*)
                environment "$name" "" "peft==${name#peft-}" transformers accelerate
                "$home/bin/python" -m pytest tests/tuner tests/subspace/test_subspace.py tests/subspace/test_lora_adapters.py \
                    tests/method/test_masks.py
                ;;
            train)
                environment train "[train]" gguf
                "$home/bin/pip" install --quiet --no-deps peft==0.20.0 ${LLAMAFACTORY:+"$LLAMAFACTORY"} \
                    ${TRANSFORMERS:+"transformers==$TRANSFORMERS"}
                "$home/bin/python" -m pytest tests/tuner tests/training
                ;;
            newest)
                environment newest "[merge,eval]" "transformers>5.6" "peft<0.22" huggingface_hub tokenizers "lm-eval[ifeval]"
                "$home/bin/python" -m pytest tests/merging tests/evaluation
                ;;
            *)
                echo "$name: expected peft-VERSION, train or newest" >&2
                exit 2
                ;;
        esac
    done
done
