"""Answers of models to prompts: greedy, in batches, with transformers and PEFT."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Final, Protocol

from realign_plugin.data.answering.chats import chat_tokenizer, rendered
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.errors import UserError, cannot_load
from realign_plugin.evaluation.answers.thinking import opened_by

ALIGNED: Final = "aligned"
FINE_TUNED: Final = "fine_tuned"
WORTH_SHARING: Final = 8
"""Tokens that all prompts of a batch start with (a system prompt, say), from which on they are read once."""
SHORT: Final = 256
"""Tokens of a row up to which plain attention is used on a CPU."""


class Answering(Protocol):
    """Answers prompts."""

    def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        """Answer prompts.

        Args:
            name: Which model answers.
            prompts: What it is asked.
            max_tokens: Maximum tokens of an answer.
        """


def common_start(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows start with; at least one token of each row is left."""
    longest = min(map(len, rows)) - 1
    return next((n for n in range(longest) if any(row[n] != rows[0][n] for row in rows)), longest)


class Answerer:
    """One base model with the adapters of the models that answer."""

    def __init__(self, base: str, adapters: Mapping[str, Path | None]) -> None:
        """Load the model, and all adapters onto it.

        Args:
            base: The base model: a folder or a hub id.
            adapters: By name, the LoRA adapter of each model that answers; None for the base model itself.

        Raises:
            UserError: If the base cannot be loaded or is not a chat model, or an adapter is for another model.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        self.tokenizer = chat_tokenizer(base)
        self._base = base
        # On one GPU or several; on a CPU without accelerate's hooks.
        place = {"device_map": "auto"} if torch.cuda.is_available() else {}
        try:
            self.model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto", **place).eval()
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            raise cannot_load("--model", base, error) from error
        # The last token of each prompt is a view with gaps, for which torch copies the head's weight once a row.
        self.model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
        self.adapters: dict[str, Path | None] = {}
        for name, path in adapters.items():
            self.add(name, path)

    def add(self, name: str, path: Path | None) -> None:
        """Load another adapter.

        Args:
            name: What the model with it is called.
            path: Its folder; None for the base model itself.

        Raises:
            UserError: If it is for another model.
        """
        from peft import PeftModel

        self.adapters[name] = path
        if path is None:
            return
        try:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(path), name, autocast_adapter_dtype=False)
            else:
                # In the model's dtype, as servers keep adapters; PEFT's default is fp32, a third slower on a CPU.
                self.model = PeftModel.from_pretrained(
                    self.model, str(path), adapter_name=name, autocast_adapter_dtype=False
                )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"--model: {path} is not an adapter of {self._base} ({' '.join(str(error).split())[:120]}), expected "
                "the base model that it was trained on; give that one"
            ) from error
        self.model.eval()

    def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        """Answer prompts, all at once where memory suffices; one that is too long has no answer, and a line says so.

        Args:
            name: Which model answers.
            prompts: What it is asked.
            max_tokens: Maximum tokens of an answer.

        Returns:
            Answers in the order of the prompts; each with the tag that opens its thinking, where the chat template has
            put it before the answer.
        """
        texts = [self.text(prompt) for prompt in prompts]
        most = getattr(self._base_model().config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        rows = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        fit = [number for number, row in enumerate(rows) if len(row) + max_tokens <= most]
        said = dict(zip(fit, self._answered(name, [texts[number] for number in fit], max_tokens), strict=True))
        if len(said) < len(texts):
            left = len(texts) - len(said)
            print(
                f"realign-plugin: --model: {self._base} does not answer {left} of {len(texts)} prompts (with "
                f"{max_tokens} tokens of an answer they exceed its {most}); they are left out",
                file=sys.stderr,
            )
        return [said.get(number, "") for number in range(len(texts))]

    def _answered(self, name: str, texts: list[str], max_tokens: int) -> list[str]:
        """Answers to some prompts, to fewer at a time where memory does not suffice."""
        import torch

        if not texts:
            return []
        try:
            return self._batch(name, texts, max_tokens)
        except torch.cuda.OutOfMemoryError:
            if len(texts) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(texts) // 2
        return [*self._answered(name, texts[:half], max_tokens), *self._answered(name, texts[half:], max_tokens)]

    @property
    def one_head(self) -> bool:
        """Whether all models have the base's output head."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        return not isinstance(self._head(), (BaseTunerLayer, AuxiliaryTrainingWrapper))

    def logits(self, name: str, ids: Any, mask: Any, last: int, others: Any = None) -> tuple[Any, Any]:
        """A model's logits at the last tokens of each row.

        Args:
            name: Which model.
            ids: Token ids, [rows, tokens], padded on the left.
            mask: 1 where there is a token.
            last: How many positions are looked at.
            others: Hidden states of the same tokens, [rows, last, hidden], as this gave them for another model; only
                where there is one head.

        Returns:
            [rows, last, vocabulary], behind them the others' where given; and the hidden states that the head saw.
        """
        import torch

        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        model, seen = self._base_model(), []
        more: dict[str, Any] = {}
        if "position_ids" in signature(model.forward).parameters:
            more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)

        def see(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
            seen.append(given[0][:, -last:].contiguous())
            return (seen[0] if others is None else torch.cat([seen[0], others.to(seen[0])]), *given[1:])

        handle = self._head().register_forward_pre_hook(see)
        try:
            with torch.no_grad(), self._as(name), self._attention(ids.shape[1]):
                return self.model(input_ids=ids, attention_mask=mask, **more).logits, seen[0]
        finally:
            handle.remove()

    def text(self, prompt: Prompt) -> str:
        """A prompt through the chat template, up to where the answer begins.

        Raises:
            UserError: If the template refuses it.
        """
        return rendered(self.tokenizer, prompt, self._base)

    def _batch(self, name: str, texts: list[str], max_tokens: int) -> list[str]:
        import torch

        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        with torch.no_grad(), self._as(name), self._attention(max(map(len, rows)) + max_tokens):
            shared, given = self._read(rows)
            rest = self.tokenizer.pad({"input_ids": [row[shared:] for row in rows]}, return_tensors="pt")
            start = torch.tensor(rows[0][:shared], dtype=torch.long).expand(len(rows), -1)
            ids = torch.cat([start, rest["input_ids"]], 1).to(self.model.device)
            mask = torch.cat([torch.ones_like(start), rest["attention_mask"]], 1).to(self.model.device)
            found = self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, **given
            )
        said = self.tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
        return [opened_by(text) + answer.strip() for text, answer in zip(texts, said, strict=True)]

    def _read(self, rows: list[list[int]]) -> tuple[int, dict[str, Any]]:
        """How many tokens at the start of all rows were read, once, and their cache as an argument of ``generate``.

        Zero where it is not worth it, or where a layer sees less than all of them (a sliding window, a state).
        """
        import torch
        from transformers.cache_utils import DynamicLayer

        shared = common_start(rows)
        if len(rows) == 1 or shared < WORTH_SHARING:
            return 0, {}
        start = torch.tensor([rows[0][:shared]], device=self.model.device)
        cache = self._base_model()(input_ids=start, use_cache=True).get("past_key_values")
        if cache is None or any(type(layer) is not DynamicLayer for layer in getattr(cache, "layers", [None])):
            return 0, {}
        cache.batch_repeat_interleave(len(rows))
        return shared, {"past_key_values": cache}

    @contextmanager
    def _attention(self, tokens: int) -> Iterator[None]:
        """On a CPU plain attention while rows are short: with torch's fused one an answer takes a quarter longer."""
        model = self._base_model()
        usual = model.config._attn_implementation
        short = self.model.device.type == "cpu" and usual == "sdpa" and tokens <= SHORT
        if short:
            model.set_attn_implementation("eager")
        try:
            yield
        finally:
            if short:
                model.set_attn_implementation(usual)

    def _head(self) -> Any:
        return self._base_model().get_output_embeddings()

    def _base_model(self) -> Any:
        return getattr(self.model, "get_base_model", lambda: self.model)()

    def _as(self, name: str) -> Any:
        from contextlib import nullcontext

        from peft import PeftModel

        if not isinstance(self.model, PeftModel):
            return nullcontext()
        if self.adapters[name] is None:
            return self.model.disable_adapter()
        self.model.set_adapter(name)
        return nullcontext()
