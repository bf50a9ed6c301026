"""Benchmarks: modules to run, each of which prints a table of what it measured."""
