"""Compares systems: trained alike, with equal parameters, on a text or on a task that needs the past."""
