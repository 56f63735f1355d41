"""Merge methods for stock mergekit, and the hooks that bring them in."""

import mergekit.merge_methods  # noqa: F401 - first: its hook imports the modules here as soon as it is there
