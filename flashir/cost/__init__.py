"""The cost model: what a lowered graph takes on a target, in milliseconds and bytes."""

from flashir.cost.catalogue import target, target_names
from flashir.cost.model import Estimate, estimate
from flashir.cost.target import Target

__all__ = ["Estimate", "Target", "estimate", "target", "target_names"]
