"""End to end through the stock ``lm_eval``, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.judging.judge_server import judge_server
from tests.evaluation.parrot import answer, folder_of

pytestmark = pytest.mark.cli
SECRET = "sk-unmistakable-9876543210"
Run = Callable[..., Any]


@pytest.fixture
def command(lab: Path, subspace: Any, tmp_path: Path) -> list[Any]:
    """``lm_eval`` on a safety subspace, with two small local sets."""
    data = folder_of(tmp_path / "data", 6)
    adapter = subspace.save(tmp_path / "s")
    metadata = {"safety_data": str(data), "judge_retries": 0, "judge_concurrency": 1}
    return [
        "lm_eval", "--model", "hf", "--model_args", f"pretrained={lab / 'base'},peft={adapter},dtype=float32",
        "--device", "cpu", "--apply_chat_template", "--gen_kwargs", "max_gen_toks=6", "--batch_size", "4",
        "--tasks", "safety_catqa,safety_shadow", "--log_samples", "--output_path", tmp_path / "out",
        "--metadata", json.dumps(metadata),
    ]  # fmt: skip


def environment(tmp_path: Path, url: str) -> dict[str, str]:
    return {"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": url, "REALIGN_JUDGE_CACHE": str(tmp_path / "cache")}


def test_a_run_with_a_judge_holds_no_key(command: list[Any], tmp_path: Path, run_stock: Run) -> None:
    with judge_server(rule=lambda _: "[[harmful]]") as server:
        result = run_stock(*command, env=environment(tmp_path, server.url))
    assert result.returncode == 0, result.stderr[-3000:]
    assert "harmful_rate" in result.stdout
    assert f"Bearer {SECRET}" in server.headers
    file = next((tmp_path / "out").rglob("results_*.json"))
    found = json.loads(file.read_text())
    assert found["realign"]["judge"]["report"]["calls"] == server.calls > 0
    texts = [result.stdout, result.stderr, *(p.read_text() for p in (tmp_path / "out").rglob("*.json*"))]
    assert not [text for text in texts if SECRET in text]
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    result = run_stock("realign", "compare", f"one={tmp_path / 'out'}", "--out", tmp_path / "c")
    assert result.returncode == 0
    assert "safety_catqa: harmful_rate" in (tmp_path / "c" / "comparison.md").read_text()


def test_a_judge_that_goes_down_and_realign_judge(command: list[Any], tmp_path: Path, run_stock: Run) -> None:
    with judge_server(rule=lambda _: "[[unharmful]]", dies_after=3) as server:
        result = run_stock(*command, env=environment(tmp_path, server.url))
        assert result.returncode == 3
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "cannot be reached" in lines[0]
        assert "Traceback" not in result.stderr
        files = sorted((tmp_path / "out").rglob("samples_*.jsonl"))
        assert len(files) == 2
        server.dies_after = None
        before = server.calls
        words = ["realign", "judge", *files, "--out", tmp_path / "judged.json"]
        result = run_stock(*words, env=environment(tmp_path, server.url))
        assert result.returncode == 0, result.stderr[-2000:]
        done = json.loads((tmp_path / "judged.json").read_text())
        judged = done["realign"]["judge"]["report"]
        assert judged["calls"] == server.calls - before
        assert judged["cached"] == 3
        assert done["results"]["safety_catqa"]["unjudged_rate,none"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metadata", '{"safety_data": "x"'], "error: --metadata: "),
        (["--metadata", '{"safety_data": "nowhere"}'], "error: safety_data: nowhere is not a folder"),
        (["--metadata", '{"judge": "openai"}'], "error: judge: 'openai' needs OPENAI_API_KEY"),
    ],
)
def test_mistakes(command: list[Any], run_stock: Run, words: list[str], message: str) -> None:
    result = run_stock(*command[:-2], *words)
    assert result.returncode == 2, result.stderr[-2000:]
    assert [line for line in result.stderr.splitlines() if line.startswith(message)]
    assert "Traceback" not in result.stderr


def test_two_ranks_judge_each_prompt_once(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", 12)
    tools = Path(sys.executable).parent
    with judge_server() as server:
        env = os.environ | environment(tmp_path, server.url) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
        script = Path(__file__).with_name("two_ranks.py")
        torchrun = [tools / "torchrun", "--nproc_per_node", "2", script, data, tmp_path / "cache"]
        result = subprocess.run(list(map(str, torchrun)), capture_output=True, text=True, env=env, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        answers = [answer(f"how is kite {n} of catqa made ?") for n in range(12)]
        assert server.calls == sum(bool(text) for text in answers)
        assert len(set(server.prompts)) == server.calls
    row = json.loads(result.stdout.partition("RESULT")[2].splitlines()[0])
    report = row["report"]
    assert report["calls"] == report["asked"]["harmful"] == report["judged"]["harmful"] == server.calls
    assert row["harmful_rate,none"] == pytest.approx(sum("mix" in text for text in answers) / server.calls)
