"""The skill: orders in free text to JSON. Whether an answer is right can be said exactly."""

from __future__ import annotations

import json
import random
from typing import Any, Final

ITEMS: Final = (
    *("latte", "espresso", "cappuccino", "mocha", "flat white", "green tea", "chai", "hot chocolate", "cider"),
    *("milk", "bagel", "croissant", "muffin", "scone", "brownie", "cookie", "sandwich", "salad", "pizza"),
)
NAMES: Final = (
    *("Ana", "Ben", "Carla", "Dev", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kim", "Leila", "Marco"),
    *("Nadia", "Omar", "Peter", "Quinn", "Rosa", "Sam", "Tess", "Uma", "Viktor", "Wendy", "Yusuf", "Zoe", "Iris"),
)
NUMBERS: Final = ("one", "two", "three", "four", "five", "six")
PLACES: Final = {"here": ("to eat in", "for here"), "away": ("to take away", "to go")}
SENTENCES: Final = (
    "Hi, this is {name}. I'd like {items}, {place}.",
    "{items} for {name}, {place}. Thanks!",
    "Could I get {items} {place}? Name is {name}.",
    "{name} here: {items}, {place}.",
    "Please put down {items} under {name}, {place}.",
    "{name} wants {items}, {place}.",
)
TASK: Final = "Turn this order into JSON: "


def order(rng: random.Random) -> tuple[str, str]:
    """One order: the prompt, and the JSON that it stands for."""
    items = rng.sample(ITEMS, rng.randint(1, 3))
    counts = [rng.randint(1, len(NUMBERS)) for _ in items]
    pairs = list(zip(items, counts, strict=True))
    words = [f"{rng.choice((NUMBERS[count - 1], str(count)))} {_plural(item, count)}" for item, count in pairs]
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    name, place = rng.choice(NAMES), rng.choice(sorted(PLACES))
    sentence = rng.choice(SENTENCES).format(name=name, items=listed, place=rng.choice(PLACES[place]))
    answer = {"name": name, "items": dict(pairs), "place": place}
    return TASK + sentence[0].upper() + sentence[1:], json.dumps(answer)


def orders(count: int, seed: int) -> list[dict[str, str]]:
    """Distinct orders, as rows of LLaMA-Factory's Alpaca form."""
    rng, found = random.Random(seed), dict[str, str]()
    while len(found) < count:
        prompt, answer = order(rng)
        found[prompt] = answer
    return [{"instruction": prompt, "output": answer} for prompt, answer in found.items()]


def right(said: str, expected: str) -> bool:
    """Whether an answer is the JSON of the order."""
    try:
        found: Any = json.loads(said)
    except ValueError:
        return False
    return bool(found == json.loads(expected))


def _plural(item: str, count: int) -> str:
    if count == 1 or item == "milk":
        return item
    return item + ("es" if item.endswith(("ch", "sh")) else "s")
