# Makes a machine with one GPU, Python 3.12, PyTorch 2.11 and transformers and no network ready to train:
#
#     source benchmarks/gpu/set_up.sh [WHEELS [SITE]]      from the repository's root, in every shell
#
# WHEELS (.gpu/wheels) is what gather.py fetched; SITE (/tmp/site) is where they go, before the machine's own packages.
# A folder on PYTHONPATH has no .pth files, so that SITE's sitecustomize.py does what realign_plugin.pth does.
REALIGN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
REALIGN_WHEELS=${1:-$REALIGN_ROOT/.gpu/wheels}
REALIGN_SITE=${2:-/tmp/site}
REALIGN_WANTED=$(cd "$REALIGN_WHEELS" && ls ./*.whl)
if [ "$REALIGN_WANTED" != "$(cat "$REALIGN_SITE/.wheels" 2>/dev/null)" ]; then
    rm -rf "$REALIGN_SITE"
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --target "$REALIGN_SITE" "$REALIGN_WHEELS"/*.whl &&
        echo "import realign_plugin_boot" >"$REALIGN_SITE/sitecustomize.py" &&
        echo "$REALIGN_WANTED" >"$REALIGN_SITE/.wheels" || echo "set_up.sh: the wheels could not be installed" >&2
fi
export PYTHONPATH=$REALIGN_SITE:$REALIGN_ROOT
export PATH=$REALIGN_SITE/bin:$PATH
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1
export TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
python3 -c 'import realign_plugin_boot, peft, sys; sys.exit(realign_plugin_boot.attached.get("peft", 1) is not None)' ||
    echo "set_up.sh: the plugin is not attached to PEFT" >&2
