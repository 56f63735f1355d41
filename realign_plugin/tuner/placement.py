"""The dictionaries that hold a layer's parameters, and where their tensors are when they are not in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class FrozenParameters(nn.ParameterDict):
    """Parameters that stay frozen, whoever puts them in: transformers makes all that it loads trainable."""

    def register_parameter(self, name: str, param: Tensor | None) -> None:
        """Take a parameter, frozen."""
        super().register_parameter(name, None if param is None else param.requires_grad_(False))  # type: ignore[arg-type]


def offloading_hook(module: nn.Module) -> Any:
    """Accelerate's hook that keeps a module's tensors on the CPU or on disk between its calls; None without one."""
    hook = vars(module).get("_hf_hook")
    hooks = getattr(hook, "hooks", (hook,))
    return next((one for one in hooks if getattr(one, "offload", False)), None)


def read_elsewhere(held: Sequence[nn.Module], adapter: str) -> list[Tensor | None]:
    """One adapter's parameters where dictionaries do not hold them themselves.

    nn.DataParallel sets its copies as attributes. What accelerate offloads it fetches where a module is called, which
    dictionaries never are; it is fetched here, for this reading alone.

    Args:
        held: The dictionaries.
        adapter: The adapter.
    """
    return [_read(parameters, adapter) for parameters in held]


def _read(parameters: Any, adapter: str) -> Tensor | None:
    if adapter not in parameters:
        return None
    tensor: Tensor = parameters[adapter]
    hook = offloading_hook(parameters)
    if hook is None or not tensor.is_meta:
        return tensor
    fetched: Tensor = hook.weights_map[adapter].detach().to(hook.execution_device)
    return fetched.requires_grad_(tensor.requires_grad)
