"""A judge's model in this process, by transformers: batched, greedy, on the GPU once the evaluated model left it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from realign_plugin.chat_templates import pad_with_the_end
from realign_plugin.errors import UserError, reason
from realign_plugin.evaluation.answers.evaluated import leave_gpu
from realign_plugin.evaluation.judging.guards.guard import RAW, Question
from realign_plugin.evaluation.judging.rendering import Rendering

TOKENIZERS: Final = ("tokenizer*", "vocab*", "*.tiktoken", "spiece.model")
"""Files of which a tokenizer has at least one."""
BATCH: Final = 16
"""Questions at a time."""
SPARE: Final = 1.15
"""Memory for a judge over that of its weights: activations and the cache of keys and values."""


class LocalModel:
    """A causal language model that answers a judge's questions.

    Its answers have the shape of an OpenAI-compatible server's, so that they are read and cached the same way.
    """

    def __init__(self, path: str, batch: int = BATCH) -> None:
        """Nothing is loaded.

        Args:
            path: Folder of the model, or its id on the hub.
            batch: Questions at a time; answers do not depend on it.
        """
        self.path, self._batch = path, batch
        self._loaded: tuple[Any, Any] | None = None
        self._rendering = Rendering()

    def check(self, questions: Sequence[Question] = ()) -> None:
        """See that the model is there and that it fits into memory, without loading it; one on the hub is downloaded.

        On a GPU, the evaluated model is moved away first, so the whole GPU counts; on the CPU, what is free now. How
        its chat template takes questions is found out too.

        Args:
            questions: One in each form that will be asked.

        Raises:
            UserError: If it is not there, has no tokenizer or no safetensors, or does not fit: with how much it needs;
                or if its chat template cannot render the questions.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        if self._loaded is not None:
            return
        try:
            config = AutoConfig.from_pretrained(self.path)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except (OSError, ValueError) as error:
            raise UserError(
                f"judge_model: {self.path!r} cannot be read ({reason(error)}), expected a causal language model: "
                "a folder or an id on the hub; correct it"
            ) from error
        self._rendering = Rendering.of(self._tokenizer(), questions, self.path)
        self._weights()
        dtype = _dtype()
        needed = int(sum(p.numel() for p in model.parameters()) * dtype.itemsize * SPARE)
        free = _memory()
        if needed > free:
            where = "the GPU" if torch.cuda.is_available() else "memory"
            raise UserError(
                f"judge: 'local' needs {needed / 2**30:.1f} GiB for {self.path!r}, and {where} has "
                f"{free / 2**30:.1f} GiB; use a smaller judge_model, or a server"
            )

    def answer(self, questions: Sequence[Question], max_tokens: int) -> Iterator[tuple[int, Any]]:
        """Answer questions, those of like length together.

        Args:
            questions: Chats and raw prompts.
            max_tokens: Most tokens of an answer.

        Yields:
            The question's index, and its answer as a server would send it.

        Raises:
            UserError: If the model cannot be loaded, or the GPU's memory is used up.
        """
        import torch

        try:
            yield from self._answer(questions, max_tokens)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                f"judge: 'local': the GPU's memory is used up with {self.path!r} in it, expected room for it once the "
                "evaluated model is gone; run `realign judge` on the samples, or use a smaller judge_model"
            ) from error

    def _answer(self, questions: Sequence[Question], max_tokens: int) -> Iterator[tuple[int, Any]]:
        import torch

        tokenizer, model = self._load()
        texts = [self._rendering.text(tokenizer, question) for question in questions]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
        for start in range(0, len(order), self._batch):
            indices = order[start : start + self._batch]
            special = questions[indices[0]].path == RAW  # else they are in the template; all are chats, or all raw
            batch = tokenizer(
                [texts[index] for index in indices],
                padding=True,
                return_tensors="pt",
                add_special_tokens=special,
                return_token_type_ids=False,
            ).to(model.device)
            with torch.inference_mode():
                output = model.generate(**batch, max_new_tokens=max_tokens, do_sample=False)
            width = batch["input_ids"].shape[1]
            for row, index in enumerate(indices):
                sent = int(batch["attention_mask"][row].sum())
                yield index, self._reply(tokenizer, model, output[row, width:].tolist(), sent, questions[index])

    @staticmethod
    def _reply(tokenizer: Any, model: Any, new: list[int], sent: int, question: Question) -> dict[str, Any]:
        ends = model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        length = next((place for place, token in enumerate(new) if token in ends), None)
        said = new if length is None else new[:length]
        text = tokenizer.decode(said, skip_special_tokens=True)
        choice: dict[str, Any] = {"finish_reason": "length" if length is None else "stop"}
        choice |= {"text": text} if question.path == RAW else {"message": {"role": "assistant", "content": text}}
        return {"choices": [choice], "usage": {"prompt_tokens": sent, "completion_tokens": len(said)}}

    def _weights(self) -> None:
        """See that the weights are there and whole, as safetensors: nothing pickled is loaded."""
        from safetensors import SafetensorError, safe_open

        folder = Path(self.path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            try:
                folder = Path(snapshot_download(self.path, allow_patterns=["*.safetensors", "*.json"]))
            except (OSError, ValueError) as error:
                raise UserError(
                    f"judge_model: {self.path!r} cannot be downloaded ({reason(error)}), expected access to the "
                    "hub, or a folder; log in, or download it first"
                ) from error
        files = list(folder.glob("*.safetensors"))
        if not files:
            raise UserError(
                f"judge_model: {self.path!r} has no *.safetensors, expected its weights in that format; convert "
                "it, or use another model"
            )
        for file in files:
            try:
                with safe_open(file, "pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"judge_model: {file} cannot be read ({reason(error)}), expected the whole file; copy it again"
                ) from error

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        folder = Path(self.path)
        try:
            if folder.is_dir() and not any(any(folder.glob(name)) for name in TOKENIZERS):
                raise OSError("no file of one")  # some versions of transformers make an empty one up
            tokenizer = AutoTokenizer.from_pretrained(self.path, padding_side="left")
        except Exception as error:  # the readers of a damaged tokenizer raise what they like
            raise UserError(
                f"judge_model: {self.path!r} has no tokenizer that can be loaded ({reason(error)}), expected one "
                "next to the model; add its files"
            ) from error
        pad_with_the_end(tokenizer, self.path, "judge_model")
        return tokenizer

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM

        if self._loaded is None:
            leave_gpu()
            tokenizer = self._tokenizer()
            device = f"cuda:{_gpu()}" if torch.cuda.is_available() else "cpu"
            model = AutoModelForCausalLM.from_pretrained(self.path, dtype=_dtype(), use_safetensors=True)
            model = model.to(device).eval()
            model.generation_config.pad_token_id = tokenizer.pad_token_id
            if model.generation_config.eos_token_id is None:
                model.generation_config.eos_token_id = tokenizer.eos_token_id
            self._loaded = tokenizer, model
        return self._loaded


def _gpu() -> int:
    """This process's GPU: each rank judges its own answers."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _dtype() -> Any:
    import torch

    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def _memory() -> int:
    """Bytes that a judge may take: all of the GPU, or what of the memory is available."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(_gpu()).total_memory)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = next(line for line in file if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
