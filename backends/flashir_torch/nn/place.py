"""Where a module computes: the device and the type of its parameters, and the code for that."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from flashir.backends.lowering import Lowering
from flashir.execution.native import Settled
from flashir.ir import DType, Graph
from flashir.transforms.master_weights import MasterWeights
from flashir.transforms.set_dtype import retyped
from flashir_torch.types import TYPES

KINDS = {dtype: kind for kind, dtype in TYPES.items()}


@dataclass(frozen=True)
class Place:
    """A kind of device and an element type.

    Args:
        target: that code is made for.
        dtype: of the parameters.
    """

    target: str
    dtype: DType = DType.F32

    @staticmethod
    def of(module: nn.Module, target: str) -> Place:
        """Where the parameters of a module are. On a card, code is for the target, or for the card that is there."""
        first = next((each for each in module.parameters() if each.dtype in KINDS), None)
        if first is None:
            return Place(target)
        cards = target if target != "torch:cpu" else "torch:cuda"
        return Place(cards if first.device.type == "cuda" else "torch:cpu", KINDS[first.dtype])


def code_graph(model: Settled, place: Place) -> Graph:
    """The model down to what is claimed there.

    Parameters in float32 stay so where the model computes with fewer bits; in all other types it computes in theirs.
    """
    graph, lower = model.on(place.target), Lowering.of(place.target).run
    if place.dtype is DType.F32:
        return MasterWeights().apply(lower(graph))
    return lower(retyped(graph, place.dtype))
