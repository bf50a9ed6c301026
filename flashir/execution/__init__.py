"""Execution: compile a model for a target, run it, differentiate it, and time it."""
