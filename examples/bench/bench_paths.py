"""Makes the modules of the demo and of the trial importable; imported before them."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("qwen", "demo")]
