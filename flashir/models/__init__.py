"""Models: loaded by name or from a file, their parameters, their checkpoints."""
