"""From a study's configuration to its plan: steps that run stock commands, models, tables."""
