"""Limits on the size of a graph. Products of bounded numbers are bounded as well.

A short text can request any number of layers, elements or steps. The limits here reject what no machine can run, when
the graph is built. What this machine cannot run is rejected when memory is needed.
"""

from __future__ import annotations

LARGEST_SIZE = 2**40
"""Largest size of one axis."""

MOST_ELEMENTS = 2**52
"""Most elements of one tensor or parameter: 16 pebibytes of float32, more than any machine has."""

MOST_AXES = 24
"""Most axes of one tensor. NumPy allows 32, and some ops add a few."""

MOST_LAYERS = 10_000
"""Most layers of one graph. The counts of nested repeats are multiplied."""

MOST_STEPS = 2**20
"""Most iterations of all loops with a known count. The counts of nested loops are multiplied."""

MOST_ATOMS = 256
"""Most symbols and divisions in one size: `2*T*T + ceildiv(T, 64)` has four."""

LONGEST_NAME = 256
"""Most characters in the name of a model, a value, a symbol or a parameter."""

LONGEST_TEXT = 8 * 2**20
"""Most characters of IR text; parsing that much takes minutes."""
