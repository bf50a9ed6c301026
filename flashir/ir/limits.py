"""The most that a graph may ask for. Where single numbers are bounded, so are their products.

A text of a kilobyte can ask for any number of layers, elements or steps. What no machine could do is refused where
it is written, by the numbers here; what this machine cannot do is refused where memory is needed.
"""

from __future__ import annotations

LARGEST_SIZE = 2**40
"""Of one axis."""

MOST_ELEMENTS = 2**52
"""Of one tensor or parameter: 16 pebibytes of float32, more than any machine has."""

MOST_AXES = 24
"""Of one tensor: numpy has 32, and ops need a few to work with."""

MOST_LAYERS = 10_000
"""Of one graph; those of a repeat inside another are multiplied."""

MOST_STEPS = 2**20
"""Rounds of loops whose number is known; those of a loop inside another are multiplied."""

MOST_ATOMS = 256
"""Symbols and divisions in one size, those inside divisions too: `2*T*T + ceildiv(T, 64)` has four."""

LONGEST_NAME = 256
"""Characters in the name of a model, a value, a symbol or a parameter."""

LONGEST_TEXT = 8 * 2**20
"""Characters of IR text: some minutes of reading."""
