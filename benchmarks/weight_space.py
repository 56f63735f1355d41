"""Host memory of attaching a weight-space subspace, against what the model and its task vectors take themselves.

python benchmarks/weight_space.py [HIDDEN LAYERS]

Makes a random Llama in bf16 in a temporary folder, and two fine-tuned copies: one that changed everywhere, and one
whose last quarter of layers alone did, as after freeze tuning. Attaches each copy's task vector to the base in a
process of its own and follows its anonymous memory (RssAnon; files that are mapped do not count).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def anonymous_mib() -> float:
    """RssAnon of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this kernel does not tell RssAnon")


def make(folder: Path, hidden: int, layers: int) -> None:
    """A random Llama and two fine-tuned copies of it, bf16, in shards of 100 MB."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base", max_shard_size="100MB")
    frozen = layers - max(1, layers // 4)
    last, others = model.model.layers[frozen:], model.model.layers[:frozen]
    for name, changed in (("frozen", last), ("tuned", others)):
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.mul_(1.01)
        model.save_pretrained(folder / name, max_shard_size="100MB")


def attach(folder: Path, tuned: str) -> None:
    """Load the base, attach the task vector of one copy, print memory and time."""
    import torch
    from transformers import AutoModelForCausalLM

    from realign_plugin import SafetySubspace, attach_subspace

    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous_mib())
            time.sleep(0.002)

    start = anonymous_mib()
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    for parameter in model.parameters():  # weights of a loaded model are mapped from its file until they are touched
        parameter.data = parameter.data.clone()
    loaded = anonymous_mib()
    watcher = threading.Thread(target=watch)
    watcher.start()
    start_s = time.perf_counter()
    subspace = SafetySubspace.from_models(folder / "base", [folder / tuned])
    built_s = time.perf_counter()
    peft_model = attach_subspace(model, subspace)
    attached_s = time.perf_counter()
    done.set()
    watcher.join()
    vectors = sum(p.numel() * p.element_size() for n, p in peft_model.named_parameters() if "deltas_W" in n)
    largest = max(p.numel() for n, p in peft_model.named_parameters() if "deltas_W" in n)
    print(
        json.dumps(
            {
                "modules": len(subspace.logits),
                "build_s": round(built_s - start_s, 2),
                "attach_s": round(attached_s - built_s, 2),
                "model_mib": round(loaded - start),
                "task_vectors_mib": round(vectors / 2**20),
                "largest_tensor_fp32_mib": round(4 * largest / 2**20, 1),
                "peak_above_model_mib": round(peak - loaded),
                "peak_above_model_and_vectors_mib": round(peak - loaded - vectors / 2**20, 1),
            }
        )
    )


def main() -> None:
    """Make the models, attach in a child, print its figures."""
    if sys.argv[1:2] == ["--attach"]:
        attach(Path(sys.argv[2]), sys.argv[3])
        return
    hidden, layers = (int(x) for x in (sys.argv[1:3] or ("1024", "16")))
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), hidden, layers)
        figures = {}
        for tuned in ("tuned", "frozen"):
            command = [sys.executable, __file__, "--attach", folder, tuned]
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
            result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            figures[tuned] = json.loads(result.stdout.strip().splitlines()[-1])
    print(json.dumps({"weight_space": {"hidden": hidden, "layers": layers} | figures}))


if __name__ == "__main__":
    main()
