"""How the learning rates in train/ were chosen: the same number of trials for ours and for the rivals.

    python tune.py RUN

Each method is trained at five rates from the same fine-tuned model and measured on the validation prompts, never on
the test prompts. What is done is not done again. Writes RUN/tuning/tuning.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from evaluate import score

HERE = Path(__file__).parent
RATES = {
    "realigned_paper": (0.1, 0.2, 0.4, 0.8, 1.6),
    "realigned_shipped": (0.1, 0.2, 0.4, 0.8, 1.6),
    "lora_dpo": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "lora_sft": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
}
SHOWN = ("harmful_rate", "over_refusal", "instruction_accuracy", "skill_accuracy", "gibberish_rate")


def main() -> None:
    """Train, measure, and write the table."""
    run = Path(sys.argv[1])
    out = run / "tuning"
    out.mkdir(exist_ok=True)
    tools = Path(sys.executable).parent
    lines = ["| method | learning rate | " + " | ".join(SHOWN) + " | best |", "|---" * (len(SHOWN) + 3) + "|"]
    for method, rates in RATES.items():
        rows = {}
        for rate in rates:
            folder, result = out / f"{method}-{rate:g}", out / f"{method}-{rate:g}.json"
            if not result.exists():
                paths = {
                    "model_name_or_path": run / "base",
                    "dataset_dir": run / "data",
                    "output_dir": folder,
                    "learning_rate": rate,
                }
                if method.startswith("realigned"):
                    paths |= {"aligned_adapter": run / "aligned", "task_adapters": run / "finetuned"}
                else:
                    paths["adapter_name_or_path"] = run / "finetuned"
                if method == "lora_dpo":
                    paths |= {"ref_model": run / "base", "ref_model_adapters": run / "finetuned"}
                words = [f"{key}={value}" for key, value in paths.items()]
                command = [tools / "llamafactory-cli", "train", HERE / "train" / f"{method}.yaml", *words]
                with open(out / f"{method}-{rate:g}.log", "w") as log:
                    subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ)
                adapter = folder
                if method.startswith("realigned"):
                    adapter = out / f"{method}-{rate:g}-lora"
                    subprocess.run([tools / "realign", "export", folder, adapter], check=True)
                measure = [sys.executable, HERE / "evaluate.py", run, f"{method}={adapter}", "--split", "validation"]
                subprocess.run([*measure, "--out", result], check=True)
            rows[rate] = json.loads(result.read_text())["rows"][0]
        best = max(rows, key=lambda rate: score(rows[rate]))
        for rate, row in rows.items():
            cells = " | ".join(f"{row[name]:.3f}" for name in SHOWN)
            lines.append(f"| {method} | {rate:g} | {cells} | {'yes' if rate == best else ''} |")
    (out / "tuning.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
