"""Train a safety subspace with TRL's own DPOTrainer, then export it as a plain LoRA adapter.

    python examples/trl/mask_dpo.py BASE ALIGNED FINE_TUNED PAIRS.json OUT

PAIRS.json: a list of {"prompt", "chosen", "rejected"}, plain text or messages; see docs/train.md for what it should
contain. ALIGNED may be "none" where BASE itself is the aligned model.
"""

from __future__ import annotations

import argparse

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from realign_plugin import SafetySubspace
from realign_plugin.trl import mask_dpo


def main() -> None:
    """Train, save, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "aligned", "fine_tuned", "pairs", "out"):
        parser.add_argument(name)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--use-cpu", action="store_true")
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(options.base, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    pairs = load_dataset("json", data_files=options.pairs, split="train")
    subspace = SafetySubspace.from_adapters(
        None if options.aligned == "none" else options.aligned,
        [options.fine_tuned],
        mask_estimator="straight_through",  # train the 0/1 mask that is exported
        mask_noise_end=0.0,
        mask="binary",
    )
    args = DPOConfig(
        output_dir=options.out,
        learning_rate=0.1,  # logits are not weights
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        max_length=1024,
        logging_steps=1,
        report_to="none",
        use_cpu=options.use_cpu,
        bf16=not options.use_cpu,
    )
    trainer = DPOTrainer(**mask_dpo(model, subspace, args), train_dataset=pairs, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    SafetySubspace.load(options.out).to_lora(f"{options.out}/lora")


if __name__ == "__main__":
    main()
