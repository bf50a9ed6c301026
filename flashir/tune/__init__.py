"""Tuning: the space of choices, the search that measures them, and the store that remembers."""
