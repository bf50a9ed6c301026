"""Lowered graph -> torch.export.ExportedProgram, for every batch and every length."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental import _config

from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Backend
from flashir.errors import TargetError
from flashir.ir import Dim as Size
from flashir.ir import Graph
from flashir.ir.limits import LARGEST_SIZE
from flashir.machine.memory import memory_for
from flashir.transforms.settle_choices import reset, settle
from flashir_torch.claims import claims
from flashir_torch.emit import module
from flashir_torch.footprint import WHOLE, example_shapes
from flashir_torch.kernels.claims import KERNELS
from flashir_torch.session import input_type


def without_loops(model: Graph, graph: Graph, backend: Backend) -> Graph:
    """The lowered graph with products (cumsum = matmul) in place of loops and kernels, which is the same function.

    A kernel needs one kind of device, and flashir. A loop over a symbolic number of chunks would be `torch.scan`, a
    prototype that rejects empty loops. It is only used for models with an explicit `scan`.
    """
    if not any(node.op in ("scan", *KERNELS) for node in graph.walk()):
        return graph
    unrolled = settle(reset(model, "cumsum"), {"cumsum": "matmul"})
    return Lowering("torch:cpu", partial(claims, device="cpu"), backend.passes()).run(unrolled)


def exported(graph: Graph, params: Mapping[str, Any]) -> ExportedProgram:
    """Export a lowered graph on the CPU.

    Raises:
        TargetError: PyTorch cannot export the graph; with its reason.
        ParameterError: as for `module`.
    """
    net = module(graph, params, exporting=True).requires_grad_(False).eval()
    shapes = example_shapes(graph)
    types = [input_type(value, WHOLE) for value in graph.inputs]
    needed = sum(prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, types, strict=True))
    with memory_for(f"inputs of @{graph.name} to export it with", needed, TargetError):
        example = tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, types, strict=True))
    dynamic = tuple(
        {axis: Dim.DYNAMIC for axis, size in enumerate(value.type.shape) if isinstance(size, Size)}
        for value in graph.inputs
    )
    try:  # oblivious: by default, an exported program does not support sizes of 0 and 1
        with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = export(net, example, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # PyTorch raises many kinds of errors here, without a common base class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TargetError(f"PyTorch cannot export @{graph.name}: {reason}", where="torch") from error
    bounds = [limits.upper for limits in program.range_constraints.values() if bool(limits.upper < LARGEST_SIZE)]
    if bounds:
        raise TargetError(
            f"PyTorch exports a loop over chunks only for sizes up to {min(bounds)}, and @{graph.name} has one",
            where="torch",
            hint="export the model before lowering, or lower it with cumsum = matmul, which has no loop",
        )
    return program
