"""Training: from text to a checkpoint, by the recipe of the paper (Tables 5 and 6)."""
