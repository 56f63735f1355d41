"""Commands on trained safety subspaces and on adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from realign_plugin.commands.options import Overwrite
from realign_plugin.method.choices import FUSION_METHODS, MASK_KINDS
from realign_plugin.outputs import check_adapter_folder, check_files
from realign_plugin.subspace.options import HELP, SubspaceOptions, listed

VLLM_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for ``--max-lora-rank``; its default is 16, and adapters of a higher rank are refused."""


def export(
    adapter: Annotated[Path, typer.Argument(help="Trained safety subspace.")],
    out: Annotated[Path, typer.Argument(help="Folder for the plain LoRA adapter.")],
    mask: Annotated[
        str | None, typer.Option(help=f"{listed(MASK_KINDS)}; default: the one it was trained for.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help=HELP["mask_threshold"])] = None,
    seed: Annotated[int | None, typer.Option(help=HELP["mask_seed"])] = None,
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    overwrite: Overwrite = False,
) -> None:
    """Write a plain LoRA adapter that any LoRA consumer loads."""
    from realign_plugin.subspace.spec import check_chosen_mask
    from realign_plugin.subspace.subspace import SafetySubspace
    from realign_plugin.subspace.tensor_files import torch_dtype

    check_adapter_folder(out, [adapter], overwrite=overwrite)
    number_type = torch_dtype(dtype)
    subspace = SafetySubspace.load(adapter)
    check_chosen_mask(mask or subspace.spec.mask, threshold, seed)
    subspace.to_lora(out, mask, threshold, seed, number_type)
    rank = max(map(subspace.spec.rank, subspace.logits))
    served = next((size for size in VLLM_RANKS if size >= rank), None)
    hint = f" (vLLM: --max-lora-rank {served})" if served else ""
    typer.echo(
        f"{out}: LoRA adapter, {len(subspace.logits)} modules, rank {rank}{hint}, mask {mask or subspace.spec.mask}, "
        f"{dtype}"
    )


def transfer(
    adapter: Annotated[Path, typer.Argument(help="Trained safety subspace, in LoRA space.")],
    out: Annotated[Path, typer.Argument(help="Folder for the new safety subspace.")],
    task_adapter: Annotated[
        Path, typer.Option(help="LoRA adapter of the other task, fine-tuned from the same aligned model.")
    ],
    task_weight: Annotated[float | None, typer.Option(help="Weight of its task vector (lambda).")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Apply a learned mask to another task's vector, without training (the paper's transfer study)."""
    from realign_plugin.subspace.subspace import SafetySubspace
    from realign_plugin.subspace.transfer import transfer as moved

    check_adapter_folder(out, [adapter, task_adapter], overwrite=overwrite)
    subspace = moved(SafetySubspace.load(adapter), task_adapter, task_weight, "--task-adapter")
    subspace.save(out)
    typer.echo(f"{out}: the mask of {adapter} on {task_adapter}, {len(subspace.logits)} modules")


def fuse(
    out: Annotated[Path, typer.Argument(help="Folder for the plain LoRA adapter.")],
    tasks: Annotated[list[Path], typer.Argument(help="LoRA adapters of the fine-tuned models, one or more.")],
    aligned: Annotated[
        Path | None, typer.Option(help="LoRA adapter of the aligned model; none: the base model is aligned.")
    ] = None,
    method: Annotated[str, typer.Option(help=f"{listed(FUSION_METHODS)}.")] = SubspaceOptions.fusion_method,
    task_weight: Annotated[
        str | None, typer.Option(help="Lambda, or one for each task with commas; default: the fusion's.")
    ] = None,
    ties_density: Annotated[float, typer.Option(help=HELP["ties_density"])] = SubspaceOptions.ties_density,
    dare_drop_rate: Annotated[float, typer.Option(help=HELP["dare_drop_rate"])] = SubspaceOptions.dare_drop_rate,
    fusion_seed: Annotated[int, typer.Option(help=HELP["fusion_seed"])] = SubspaceOptions.fusion_seed,
    overwrite: Overwrite = False,
) -> None:
    """Fuse fine-tuned adapters without realignment: what mask_dpo with the same options starts from."""
    from realign_plugin.subspace.fusing import plain_fusion
    from realign_plugin.subspace.task_vectors import parse_task_weights

    check_adapter_folder(out, [*tasks, aligned], overwrite=overwrite)
    weights = parse_task_weights(task_weight, "--task-weight")
    how = {"ties_density": ties_density, "dare_drop_rate": dare_drop_rate, "fusion_seed": fusion_seed}
    plain_fusion(aligned, tasks, task_weight=weights, fusion_method=method, **how).to_lora(out)
    typer.echo(f"{out}: LoRA adapter, {len(tasks)} task vectors fused by {method}, not realigned")


def inspect(
    adapter: Annotated[Path, typer.Argument(help="Trained safety subspace.")],
    mask: Annotated[str | None, typer.Option(help="Mask for the norms after masking; default: its own.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw share kept, layers by modules, to this PNG.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print how much of each module the mask keeps."""
    from realign_plugin.subspace.inspection import draw_heat_map, inspect_subspace, print_inspection, to_json
    from realign_plugin.subspace.subspace import SafetySubspace

    check_files(plot)
    subspace = SafetySubspace.load(adapter)
    rows = inspect_subspace(subspace, mask)
    if plot is not None:
        draw_heat_map(rows, plot)
    if json:
        typer.echo(to_json(subspace, rows))
        return
    print_inspection(subspace, rows, mask)
    if plot is not None:
        typer.echo(f"Drawn to {plot}.")
