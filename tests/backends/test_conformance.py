"""Every backend that is installed passes the suite that third parties use."""

import re

import pytest

from flashir.backends.registry import backend_names
from flashir.ops import OPS
from flashir.testing import agree, cases
from tests.backends.support import at_hand
from tests.cover import GRID, cover

SLOW = ("jax", "openvino")  # they compile every graph for a long time
SAMPLES = {f"{op}-{place}" for op in OPS for place in range(len(OPS[op].samples))}
"""Each backend's own tests run the samples of ops too, on emitters alone, which takes far less time."""


def every_case() -> list[object]:
    """Models with every setting, on fast backends in turn; others are slow, and samples of ops are of the grid."""
    made, here = [], [name for name in backend_names() if at_hand(name)]
    fast = [name for name in here if name not in SLOW]
    for name in here:
        found = list(cases(f"{name}:cpu"))
        models = [case for case in found if "=" in str(case)]
        covered = sorted(cover([re.split(r"-(?=\w+=)", str(case)) for case in models], together=1))
        own = covered[fast.index(name) :: len(fast)] if name in fast else []
        slow = {str(case) for place, case in enumerate(models) if place not in own}
        for case in found:
            marks = GRID if name in SLOW or str(case) in SAMPLES else pytest.mark.slow if str(case) in slow else ()
            made.append(pytest.param(case, id=f"{name}-{case}", marks=marks))
    return made


@pytest.mark.parametrize("case", every_case())
def test_every_backend_passes_the_suite(case):
    case.check()


def test_the_suite_can_fail():
    import numpy as np

    with pytest.raises(AssertionError, match=r"error .* \(limit 1e-04\)"):
        agree(np.ones(3), np.ones(3) + 1e-3, 1e-4)
    with pytest.raises(AssertionError, match="wanted shape"):
        agree(np.ones(3), np.ones(4), 1e-4)
