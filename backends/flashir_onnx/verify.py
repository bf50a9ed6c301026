"""The checks of an ONNX file before it becomes an artefact, by the tools of ONNX. Results are compared in
`flashir.exporting.checks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, checker, shape_inference

from flashir.errors import ArtefactError

SLOW = frozenset(("Einsum",))
"""Operators that runtimes execute slowly or not at all; lowering removes them."""


def verify(path: Path) -> tuple[str, ...]:
    """Check an ONNX file with the checker and the shape inference of ONNX. Returns a line for each check.

    Both are needed, and both look into functions. Only the checker finds unknown operators and attributes. Only strict
    inference with data propagation finds wrong declared shapes.

    Raises:
        ArtefactError: a check failed.
    """
    try:
        checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise ArtefactError(f"ONNX refuses the model: {error}", where="onnx") from error
    nodes = list(all_nodes(model))
    if slow := sorted({node.op_type for node in nodes} & SLOW):
        raise ArtefactError(f"the model has {' and '.join(slow)} nodes, which runtimes execute slowly", where="onnx")
    opset = next(imported.version for imported in model.opset_import if not imported.domain)
    return (
        f"ONNX checker: opset {opset}, {len(nodes)} nodes, {len(model.functions)} functions",
        "ONNX shape inference: strict, types checked",
        "no Einsum",
    )


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes of a model: of its graph, of its functions, and of the subgraphs in both."""
    yield from _nodes(model.graph.node)
    for function in model.functions:
        yield from _nodes(function.node)


def size_inlined(model: ModelProto) -> int:
    """How many nodes a model has once its functions are inlined. A few that call each other twice make any number.

    Raises RecursionError for functions that call themselves.
    """
    bodies = {(function.domain, function.name): function.node for function in model.functions}

    def counted(nodes: Iterable[NodeProto]) -> int:
        return sum(size((node.domain, node.op_type)) for node in _nodes(nodes))

    @cache
    def size(operator: tuple[str, str]) -> int:
        return counted(bodies[operator]) if operator in bodies else 1

    return counted(model.graph.node)


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)
