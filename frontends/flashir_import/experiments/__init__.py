"""Measurements of importers against the packages: see docs/results/import.md."""
