"""Autotuning: candidates measured, in the order of the cost model."""
