"""A study's configuration: its sections, the methods it knows by name, and the file's loading."""
