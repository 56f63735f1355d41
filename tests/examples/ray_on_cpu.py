"""``llamafactory-cli`` whose Ray driver takes CPUs for GPUs, one for each worker.

Without GPUs stock LLaMA-Factory 0.9.5 asks Ray for ten CPUs for each CPU that there is, and waits for ever. The
workers are left alone.
"""

from __future__ import annotations

from llamafactory.cli import main
from llamafactory.train import trainer_utils, tuner

tuner.get_device_name = trainer_utils.get_device_name = lambda: "gpu"
main()
