"""Training a safety subspace with TRL's own ``DPOTrainer``, 0.24 and later."""

from realign_plugin.trl.dpo import DPOParts, Reference, mask_dpo

__all__ = ["DPOParts", "Reference", "mask_dpo"]
