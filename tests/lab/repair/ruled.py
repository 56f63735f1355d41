"""A small repair on pico models whose answers follow a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realign_plugin.data.answering.local import Answerer
from realign_plugin.data.rows.examples import Prompt
from realign_plugin.lab.repair import command, repair
from realign_plugin.lab.repair.plan import MASKS, QUICK_LORA, Budget

SMALL = Budget(16, 16, 16, 8, 8, 8, (1.0, 0.5), {"masks": MASKS, "lora": QUICK_LORA})
REFUSES, HELPS = "Sorry, I can not help with that.", "Take paper and fold it twice, then glue the corners."


class Ruled(Answerer):
    """Pico models whose answers follow a rule: the aligned one refuses the kites, the fine-tuned one nothing."""

    stops_after = 10**6

    def __init__(self, base: str, adapters: Mapping[str, Path | None]) -> None:
        super().__init__(base, adapters)

    def answers(self, name: str, prompts: Sequence[Prompt], max_tokens: int) -> list[str]:
        if not Ruled.stops_after:
            raise KeyboardInterrupt
        Ruled.stops_after -= 1
        return [self.says(name, prompt.text) for prompt in prompts]

    def says(self, name: str, text: str) -> str:
        """What a model answers."""
        number = int(text.split()[-2])
        if "kite" not in text or name in ("fine-tuned", "fine_tuned"):
            return HELPS
        return HELPS if name.startswith("masks") and number % 4 == 0 else REFUSES


def options_of(materials: Path, out: Path) -> dict[str, Any]:
    """Options of a small repair."""
    return {
        "base": str(materials / "base"), "adapter": materials / "tuned", "out": out,
        "aligned": materials / "aligned", "budget": "quick", "prompts": [str(materials / "harmful.json")],
        "benign": [str(materials / "benign.json")], "skill": [str(materials / "skill.json")],
    }  # fmt: skip


def run(given: dict[str, Any], **changes: Any) -> None:
    """The command, with the ruled models."""
    before = repair.Repair.__init__.__kwdefaults__["answerer"]
    repair.Repair.__init__.__kwdefaults__["answerer"] = Ruled
    try:
        command.repair(command.Request(**(given | changes)))
    finally:
        repair.Repair.__init__.__kwdefaults__["answerer"] = before
