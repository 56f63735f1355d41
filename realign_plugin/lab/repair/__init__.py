"""``realign repair``: from a broken adapter to a repaired one, with before and after, in one command."""
