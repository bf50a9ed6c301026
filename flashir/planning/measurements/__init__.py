"""Measurements: the store of them, and how they correct predictions."""
