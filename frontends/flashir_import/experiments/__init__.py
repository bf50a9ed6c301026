"""What was measured of importers, against the packages themselves: see docs/results/import.md."""
