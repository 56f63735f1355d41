"""The commands of ``realign``; nothing heavy is imported before one runs."""
