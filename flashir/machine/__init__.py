"""This machine: its memory and devices, its target records, and their calibration."""
