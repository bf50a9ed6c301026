"""This machine: its memory and processors, its target records, their calibration."""
