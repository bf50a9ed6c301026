"""set-dtype: the compute dtype of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashir.errors import IRError, SettingError
from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.types import DType, TensorType
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite

COMPUTE_TYPES = ("float32", "bfloat16", "float16")


def long_name(dtype: DType) -> str:
    """`float32` for f32. A type that is no compute type keeps its short name."""
    return next((name for name in COMPUTE_TYPES if DType.named(name) is dtype), str(dtype))


@dataclass(frozen=True)
class SetDType(Pass):
    """`embed(%ids)` -> `embed(%ids) {dtype = f16}`; later ops take the dtype of their operands, logits stay f32."""

    name = "set-dtype"
    optional = False
    dtype: str = "float32"

    def apply(self, graph: Graph) -> Graph:
        """Set the dtype of every embedding. Raises IRError for an unknown dtype."""
        dtype = DType.named(self.dtype)

        def rule(b: Builder, node: Node) -> Sequence[Value] | None:
            if node.op != "embed" or node.attrs["dtype"] is dtype:
                return None
            return b.insert("embed", node.inputs, {**node.attrs, "dtype": dtype})

        return rewrite(graph, rule)


def computing_in(graph: Graph, dtype: str) -> Graph:
    """The graph in a compute dtype. Raises SettingError if the types in its text do not allow that, or fix another."""
    try:
        narrowed = SetDType(dtype).apply(graph)
    except IRError as error:
        raise SettingError(
            [f"@{graph.name} cannot compute in {dtype}: {problem}" for problem in error.problems],
            where=error.where,
            hint="the text of the model fixes a type there; a cast would change it",
        ) from error
    floats = {value.type.dtype for node in narrowed.walk() for value in node.outputs if value.type.dtype.is_float}
    if floats and DType.named(dtype) not in floats:
        raise SettingError(
            f"dtype {dtype} has no effect on @{graph.name}, which has no op `embed`; "
            f"its text says {' and '.join(sorted(map(str, floats)))}",
            hint="write the type into the text of the model",
        )
    return narrowed


def retyped(graph: Graph, dtype: DType) -> Graph:
    """The graph in another type altogether: inputs that hold features and parameters are in that type too."""

    def rule(b: Builder, node: Node) -> Sequence[Value] | None:
        own = node.attrs.get("dtype") if node.op in ("embed", "param", "constant") else None
        if not isinstance(own, DType) or not own.is_float or own is dtype:
            return None
        return b.insert(node.op, node.inputs, {**node.attrs, "dtype": dtype})

    types = (value.type for value in graph.inputs)
    return rewrite(graph, rule, inputs=[TensorType(dtype, t.shape) if t.dtype.is_float else t for t in types])
