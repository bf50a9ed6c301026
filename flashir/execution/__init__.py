"""Execution: a model compiled for a target, run, differentiated and timed."""
