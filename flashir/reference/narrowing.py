"""What a narrow compute type costs: the logits of a model that computes in it, beside those in float64."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, inf
from typing import Any

import numpy as np

from flashir.backends.protocols import Array
from flashir.ir import DType, Graph
from flashir.reference.compare import TOLERANCE, relative_error
from flashir.reference.cross_entropy import log_softmax, logits_width
from flashir.reference.finite import representable

GROWTH = 0.01
"""The largest relative growth of perplexity. docs/decisions/052 lists the growth of trained models."""

LONGEST = 700.0  # nats per token; the perplexity of more overflows


@dataclass(frozen=True)
class Narrowing:
    """What a narrow compute type costs.

    Args:
        error: the largest error of the first result, relative to its largest value.
        growth: the relative growth of perplexity on text that the wide model writes, in expectation; None if the result
            is not logits.
    """

    error: float
    growth: float | None = None

    @staticmethod
    def between(model: Graph, wide: Array, narrow: Array) -> Narrowing:
        """The cost by the first result of a model, computed wide and narrow.

        On text that the wide model writes, the loss of the narrow one is larger by the divergence of their logits
        [.., v], in expectation.
        """
        error = relative_error(narrow, wide)
        if logits_width(model) is None or not wide.size:
            return Narrowing(error)
        if not np.isfinite(narrow).all():
            return Narrowing(error, inf)
        wanted, got = log_softmax(wide), log_softmax(narrow)
        divergence = float(np.sum(np.exp(wanted) * (wanted - got), axis=-1).mean())
        return Narrowing(error, max(0.0, expm1(min(divergence, LONGEST))))

    def problem(self, tolerance: float) -> str:
        """What is wrong if perplexity grows by more than the tolerance; empty if it does not.

        Results that are not logits may be off by as much as `check` allows.
        """
        limit = TOLERANCE[DType.BF16]
        if self.growth is None:
            return "" if self.error <= limit else f"results are off by {self.error:.1e}, more than {limit:.0e}"
        grows = f"perplexity grows by {100 * self.growth:.3g}%, more than {100 * tolerance:.3g}%"
        return "" if self.growth <= tolerance else grows

    def __str__(self) -> str:
        grows = "" if self.growth is None else f", growth of perplexity {self.growth:.1e}"
        return f"error {self.error:.1e}{grows}"

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object; null for what is infinite."""
        finite = None if self.error != self.error else representable(self.error)
        return {"error": finite, "growth": representable(self.growth)}
