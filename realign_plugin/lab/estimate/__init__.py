"""What a training or a study will cost, told from configurations alone: no weights are read, nothing is computed."""
