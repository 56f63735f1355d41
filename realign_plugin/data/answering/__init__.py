"""Answers of models to prompts, in this process or by a server, kept as they come."""
