"""On PYTHONPATH: lets accelerate's FSDP run on gloo and the CPU, which torch can and accelerate leaves out.

Accelerate asks for FSDP only on devices of a list. For that one question processes of torchrun say that they are one.
Offloaded parameters are not pinned, which needs a device. bitsandbytes does not repack 4-bit weights for inference on
a CPU: they could not be trained on afterwards.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

if "LOCAL_RANK" in os.environ:
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    start = AcceleratorState.__init__

    def start_as_device(self: Any, mixed_precision: str | None = None, cpu: bool = False, **options: Any) -> None:
        PartialState(cpu)
        shared = PartialState._shared_state
        if shared["distributed_type"] == DistributedType.MULTI_CPU:
            shared["distributed_type"] = DistributedType.MULTI_XPU
        start(self, mixed_precision, cpu, **options)

    AcceleratorState.__init__ = start_as_device

    from torch.distributed.fsdp import CPUOffloadPolicy

    CPUOffloadPolicy.__init__.__defaults__ = (False,)
    if importlib.util.find_spec("bitsandbytes") is not None:
        importlib.import_module("bitsandbytes.nn.modules").has_avx512bf16 = lambda: False
