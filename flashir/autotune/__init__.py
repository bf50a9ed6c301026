"""Autotuning: measure candidates, guided by the cost model."""
