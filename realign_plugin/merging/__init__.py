"""Merge methods for stock mergekit, and the hooks that bring them in."""
