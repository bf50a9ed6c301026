"""The cost model: the time and memory of a lowered graph on a target, in milliseconds and bytes."""

from flashir.cost.estimate import Estimate, estimate
from flashir.cost.target import Target

__all__ = ["Estimate", "Target", "estimate"]
