"""Draw examples of hypothesis strategies from a seed alone."""

from __future__ import annotations

import random
from typing import TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

T = TypeVar("T")
DRAWS = 6
"""The number of examples to draw. The first ones are simple, so the last one is used."""


def example(strategy: st.SearchStrategy[T], random: random.Random) -> T:
    """A value of the strategy."""
    found: list[T] = []
    options = settings(
        max_examples=DRAWS,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )

    def keep(value: T) -> None:
        found.append(value)

    seed(random.getrandbits(63))(options(given(strategy)(keep)))()
    return found[-1]
