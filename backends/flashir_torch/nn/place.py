"""The place of a module: the device and dtype of its parameters, and the code for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from flashir.backends.lowering import Lowering
from flashir.execution.native import Settled
from flashir.ir import DType, Graph
from flashir.transforms.set_dtype import retyped
from flashir.transforms.wide_params import WideParams
from flashir_torch.types import TYPES

KINDS = {dtype: kind for kind, dtype in TYPES.items()}


@dataclass(frozen=True)
class Place:
    """A kind of device and a dtype.

    Args:
        target: the target of the code.
        dtype: the dtype of the parameters.
    """

    target: str
    dtype: DType = DType.F32

    @staticmethod
    def of(module: nn.Module, target: str) -> Place:
        """The place of a module's parameters. On a GPU, the code is for the target, or for `torch:cuda`."""
        first = next((parameter for parameter in module.parameters() if parameter.dtype in KINDS), None)
        if first is None:
            return Place(target)
        cards = target if target != "torch:cpu" else "torch:cuda"
        return Place(cards if first.device.type == "cuda" else "torch:cpu", KINDS[first.dtype])


def code_graph(model: Settled, place: Place) -> Graph:
    """The model lowered for a place.

    float32 parameters stay master weights of a model that computes in a narrow dtype. With parameters of any other
    dtype, the model computes in that dtype.
    """
    graph, lower = model.on(place.target), Lowering.of(place.target).run
    if place.dtype is DType.F32:
        return WideParams().apply(lower(graph))
    return lower(retyped(graph, place.dtype))
