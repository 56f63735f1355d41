"""The LLaMA-Factory stages ``mask_dpo`` and ``safety_distill``: trainers, workflows and hooks."""
