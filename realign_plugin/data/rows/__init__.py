"""Rows of data sets: where they come from, how they are read, what their columns hold."""
