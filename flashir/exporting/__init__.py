"""Exporting: write artefacts, check them, and quantise their weights."""
