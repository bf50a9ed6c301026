"""Every backend that is installed passes the suite that third parties use."""

import pytest

from flashir.backends.registry import backend_names
from flashir.testing import agree, cases
from tests.backends.support import at_hand

SLOW = ("jax",)  # it compiles every graph anew


EVERY = [
    pytest.param(case, id=f"{name}-{case}", marks=pytest.mark.slow if name in SLOW else ())
    for name in backend_names()
    if at_hand(name)
    for case in cases(f"{name}:cpu")
]


@pytest.mark.parametrize("case", EVERY)
def test_it_conforms(case):
    case.check()


def test_the_suite_can_fail():
    import numpy as np

    with pytest.raises(AssertionError, match="off, 1e-04 allowed"):
        agree(np.ones(3), np.ones(3) + 1e-3, 1e-4)
    with pytest.raises(AssertionError, match="wanted shape"):
        agree(np.ones(3), np.ones(4), 1e-4)
