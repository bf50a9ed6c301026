"""Benchmarks: cases, worker processes, and the record of a run."""
