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
    """The lowered graph; of a model that sums its states up in a loop or a kernel, one that does so in a product.

    They are one function. A kernel runs on one kind of device, and not without flashir. A loop over an open number of
    chunks would be `torch.scan`, a prototype: it refuses to walk over nothing, and binds the program to what it saw of
    the sizes. That is left to models that write a loop out.
    """
    if not any(node.op in ("scan", *KERNELS) for node in graph.walk()):
        return graph
    unrolled = settle(reset(model, "cumsum"), {"cumsum": "matmul"})
    return Lowering("torch:cpu", partial(claims, device="cpu"), backend.passes()).run(unrolled)


def has_loops(graph: Graph) -> bool:
    """Whether a `scan` is left."""
    return any(node.op == "scan" for node in graph.walk())


def exported(graph: Graph, params: Mapping[str, Any]) -> ExportedProgram:
    """The program of a lowered graph, on the processor.

    Raises:
        TargetError: PyTorch cannot export the graph, and why.
        ParameterError: as `module`.
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
    try:  # oblivious: sizes of 0 and 1 are as any others, which by default a program is not made for
        with torch.no_grad(), _config.patch(backed_size_oblivious=not has_loops(graph)):  # type: ignore[attr-defined]
            program = export(net, example, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # PyTorch raises errors of many kinds here, with no base of their own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TargetError(f"PyTorch cannot export @{graph.name}: {reason}", where="torch") from error
    bounds = [each.upper for each in program.range_constraints.values() if bool(each.upper < LARGEST_SIZE)]
    if bounds:
        raise TargetError(
            f"PyTorch exports a loop over chunks for sizes up to {min(bounds)} alone, and @{graph.name} has one",
            where="torch",
            hint="export the model from before it was lowered, or lower it with cumsum = matmul, which has no loop",
        )
    return program
