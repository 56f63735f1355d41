"""Safety tasks for lm-eval, the judge of their answers, and metrics with intervals."""
