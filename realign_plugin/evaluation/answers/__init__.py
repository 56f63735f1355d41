"""An answer on its own, without a judge: its thinking, whether it is coherent, whether it refuses."""
