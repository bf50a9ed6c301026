"""Experiments: what this project's own results of this backend are made with."""
