"""Exporting: artefacts, the checks of them, and narrow weights."""
