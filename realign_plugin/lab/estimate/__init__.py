"""Estimates what a training or a study will cost from configurations alone: no weights are read."""
