# make setup   a virtual environment in .venv with everything (about 3 GB)
# make demo    a real model is aligned, broken by harmless fine-tuning and repaired; prints the table
# make tinylab a tiny model of a made-up world: every method, one task and two, offline
# make test    the whole suite
# make lint    ruff and mypy
# make bench   benchmarks, ratios in one run (docs/performance.md)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
SEEDS ?= 1
ROOT ?= runs/tinylab
SMOLLM2 := runs/models/smollm2-135m-instruct
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo tinylab tune test test-ends lint format bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt realign_plugin_boot.py realign_plugin.pth realign_plugin.start
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c "import torch; raise SystemExit(torch.version.cuda is None)" \
		|| $(BIN)/pip uninstall --quiet --yes torchvision torchaudio
	@touch $@

$(SMOLLM2)/config.json: | setup
	$(BIN)/python examples/models/get.py smollm2-135m-instruct $(SMOLLM2)

demo: setup $(SMOLLM2)/config.json
	@$(BIN)/python examples/demo/demo.py $(SMOLLM2) runs/demo-$(SEED) --seed $(SEED)

tinylab: setup
	@$(BIN)/realign study examples/tinylab/study.yaml seeds=$(SEEDS) root=$(ROOT) --cores 2

tune: setup
	$(BIN)/python examples/tinylab/tune.py $(ROOT)

test: setup
	$(BIN)/python -m pytest -n 2

test-ends: setup
	tests/ends.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/boot.py
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/weight_space.py
	$(BIN)/python benchmarks/judge.py
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/files.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/training_step.py --tokens 64 --steps 12
	$(BIN)/python benchmarks/training_step.py --tokens 512 --pairs 1 --steps 8
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/estimate.py --sizes 256 --cases mask,lora_dpo

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
