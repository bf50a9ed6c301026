"""Models: built by name or loaded from a file, with their parameters and checkpoints."""
