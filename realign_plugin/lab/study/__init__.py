"""The whole study on a user's model: one configuration, stock commands, tables."""
