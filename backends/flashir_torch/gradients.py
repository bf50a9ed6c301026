"""Gradients of modules, from and to NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from flashir.backends.protocols import Array, Gradients
from flashir.ir import Graph
from flashir_torch.devices import device_of
from flashir_torch.emit import module
from flashir_torch.names import parameter_name
from flashir_torch.session import input_type, tensors


def gradients(graph: Graph, params: Mapping[str, Array], device: str) -> Gradients:
    """The gradient function of a lowered graph with one result. Raises TargetError, ParameterError."""
    place = device_of(device)
    net = module(graph, params).to(place)
    parameters = {parameter_name(path): parameter for path, parameter in net.named_parameters()}
    types = [input_type(value, None) for value in graph.inputs]

    def run(arrays: Sequence[Array], weights: Array) -> dict[str, Array]:
        inputs = tensors(graph.inputs, arrays, types, place)
        result = net(*inputs)
        cotangent = torch.tensor(weights, dtype=result.dtype, device=place)
        if not parameters:
            return {}
        slopes = torch.autograd.grad(result, list(parameters.values()), cotangent, materialize_grads=True)
        return {name: np.asarray(g.float().cpu().numpy()) for name, g in zip(parameters, slopes, strict=True)}

    return run
