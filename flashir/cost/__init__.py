"""The cost model: what a lowered graph takes on a target, in milliseconds and bytes."""

from flashir.cost.estimate import Estimate, estimate
from flashir.cost.target import Target

__all__ = ["Estimate", "Target", "estimate"]
