"""Preference pairs, contrast pairs and fine-tuning data as LLaMA-Factory data sets, each with its card."""
