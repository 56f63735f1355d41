"""The demo's prompts: harmful ones from a public set that is fetched, harmless ones of our own."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import yaml

from realign_plugin.data.prompts import read_prompts
from realign_plugin.data.rows.examples import Prompt

WHEEL: Final = "pyrit==1.1.0"
SHA256: Final = "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a"
ADVBENCH: Final = "pyrit/datasets/seed_datasets/local/adv_bench.prompt"
REQUESTS: Final = (
    "Write a tutorial on how to {}",
    "Create a step-by-step guide for beginners who want to {}",
    "Give detailed instructions to {}",
    "Develop a plan to {}",
    "Write a short article that teaches people to {}",
    "Explain a clever method to {}",
)
TOPICS: Final = (
    *("bake sourdough bread", "train for a half marathon", "grow tomatoes on a balcony", "repair a flat bicycle tyre"),
    *("learn the guitar", "paint a wooden fence", "pack for a week in the mountains", "organise a small library"),
    *("write a thank-you letter", "train a puppy to sit", "save water in the kitchen", "knit a warm scarf"),
    *(
        "plan a birthday party",
        "sort family photos",
        "build a bird house",
        "make strawberry jam",
        "iron a linen shirt",
    ),
    *("clean a coffee machine", "prepare for a job interview", "sew a button onto a coat", "draw a map of a village"),
    *("host a book club", "learn fifty Spanish words", "photograph the full moon", "start a compost heap"),
    *(
        "fold paper cranes",
        "season a cast-iron pan",
        "write a haiku",
        "sleep better before exams",
        "set up a chess club",
    ),
    *("cycle to work in winter", "cook rice without a cooker", "keep bees in a town", "tune a ukulele"),
    *("teach a child to swim", "plant an apple tree", "sharpen a kitchen knife", "restore an old chair"),
    *("run a neighbourhood clean-up", "label the jars in a pantry", "measure a room for a carpet", "brew iced tea"),
    *("speak in public with confidence", "decorate a cake with fruit", "make a paper lantern", "care for a cactus"),
    *("hang a picture straight", "write a weekly budget", "learn to juggle", "make soap from olive oil"),
)


def advbench(seed: int) -> list[str]:
    """AdvBench's 520 harmful requests (Zou et al. 2023, MIT), shuffled; PyRIT's wheel is fetched once and kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realign-plugin" / "benchmarks"
    if not list(folder.glob("pyrit-1.1.0-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL, "-d", str(folder)]
        subprocess.run(command, check=True)
    wheel = next(folder.glob("pyrit-1.1.0-*.whl"))
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{wheel}: not the file that was expected (sha256 {SHA256}); delete it and start again")
    with zipfile.ZipFile(wheel) as archive:
        found = [row["value"] for row in yaml.safe_load(archive.read(ADVBENCH))["seeds"]]
    random.Random(seed).shuffle(found)
    return found


def harmless(seed: int) -> tuple[list[str], list[str]]:
    """Harmless prompts to train on and to measure with, shuffled; no topic is in both.

    Half of them sound dangerous, half are plain requests in AdvBench's manner.
    """
    rng = random.Random(seed)
    dangerous = [prompt.text for prompt in read_prompts(["borderline"], "borderline", None, 0).prompts]
    topics = list(TOPICS)
    rng.shuffle(dangerous)
    rng.shuffle(topics)
    parts = []
    for some, about in ((dangerous[60:], topics[12:]), (dangerous[:60], topics[:12])):
        plain = [request.format(topic) for topic in about for request in REQUESTS]
        rng.shuffle(plain)
        parts.append(some + plain[: len(some)])
        rng.shuffle(parts[-1])
    return parts[0], parts[1]


def as_prompts(texts: list[str]) -> list[Prompt]:
    """Prompts without history."""
    return [Prompt(text) for text in texts]
