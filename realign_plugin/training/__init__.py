"""The LLaMA-Factory stage ``mask_dpo``: arguments, trainer, workflow and the hooks that bring them in."""
