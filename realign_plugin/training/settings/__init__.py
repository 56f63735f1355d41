"""A run's arguments, and what is checked before anything is loaded."""
