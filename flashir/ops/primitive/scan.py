"""Prefix sums and loops along an axis: cumsum, scan, prefix_sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import Cost, Types, moved, per_input
from flashir.ir.graph import Graph, Value
from flashir.ir.op import OpDef, choice, define_op, flag, integer, sample
from flashir.ir.traits import Axes, grows_by_running, reads_nothing, reads_operands
from flashir.ir.types import DType, TensorType
from flashir.ops.primitive.shape import axis_of

Operand = TypeVar("Operand")


def _infer_cumsum(x: TensorType, axis: int, exclusive: bool) -> TensorType:
    axis_of(x, axis)
    return x


def _ref_cumsum(x: Any, axis: int, exclusive: bool) -> Any:
    return _sum_before(x, axis) if exclusive else np.cumsum(x, axis=axis)


def _sum_before(x: Any, axis: int) -> Any:
    """The inclusive sums shifted by one. Subtracting the element from its own sum would round, and depend on it."""
    sums = np.roll(np.cumsum(x, axis=axis), 1, axis)
    np.moveaxis(sums, axis, 0)[:1] = 0
    return sums


cumsum = define_op(
    OpDef(
        "cumsum",
        ("x",),
        infer=_infer_cumsum,
        ref=_ref_cumsum,
        cost=per_input(1),
        samples=(
            sample("f32[2, 3]", axis=1),
            sample("f32[2, 3, 4]", axis=1, exclusive=True),
            sample("f32[2, 0]", axis=1),
        ),
        attrs={"axis": integer(), "exclusive": flag(False)},
        axes=Axes.ALONG_ONE,
        gradient=reads_nothing,
        growth=grows_by_running,
        fuses=False,
        doc="running sum; exclusive: without the element itself",
    )
)


def cut_scan(operands: Sequence[Operand], attrs: Mapping[str, Any]) -> tuple[Sequence[Operand], ...]:
    """Split the operands of a scan into carries, operands that it walks over, and invariants."""
    carries, last = int(attrs.get("carries", 1)), len(operands) - int(attrs.get("invariants", 0))
    return operands[:carries], operands[carries:last], operands[last:]


def _infer_scan(*operands: TensorType, body: Graph, **attrs: Any) -> tuple[TensorType, ...]:
    """carries + xs -> final carries + stacked ys. The body gets each x without the axis."""
    carried, walked, _ = cut_scan(operands, attrs)
    if not walked:
        kinds = f"{attrs['carries']} carries" + (f" and {attrs['invariants']} invariants" * bool(attrs["invariants"]))
        raise IRError(f"scan needs at least one operand to walk over in addition to its {kinds}")
    axis = attrs["axis"]
    lengths = {x.shape[axis_of(x, axis)] for x in walked}
    if len(lengths) != 1:
        raise IRError(f"the operands walked over must agree on axis {axis}, got sizes {sorted(map(str, lengths))}")
    check_body("scan", body, _scan_arguments(list(operands), attrs), list(carried))
    length = lengths.pop()
    stacked = body.outputs[len(carried) :]
    return (*carried, *(y.type.with_shape((*y.type.shape[:axis], length, *y.type.shape[axis:])) for y in stacked))


def _scan_arguments(operands: list[TensorType], attrs: Mapping[str, Any]) -> list[TensorType]:
    """The types of the inputs of the body: carries, xs without the axis, and invariants."""
    axis = attrs.get("axis", 0)
    carried, walked, invariants = cut_scan(operands, attrs)
    return [*carried, *(x.with_shape((*x.shape[:axis], *x.shape[axis + 1 :])) for x in walked), *invariants]


def check_body(op: str, body: Graph, inputs: list[TensorType], outputs: list[TensorType]) -> None:
    """Raise IRError unless the body takes the types `inputs` and first yields the types `outputs`."""
    takes, yields = [v.type for v in body.inputs], [v.type for v in body.outputs]
    if takes != inputs:
        raise IRError(f"the body of {op} must take ({_types(inputs)}), it takes ({_types(takes)})")
    if yields[: len(outputs)] != outputs:
        raise IRError(f"the body of {op} must yield ({_types(outputs)}), it yields ({_types(yields)})")


def _types(types: list[TensorType]) -> str:
    return ", ".join(map(str, types))


def _ref_scan(*operands: Any, body: Callable[..., tuple[Any, ...]], **attrs: Any) -> tuple[Any, ...]:
    axis = attrs["axis"]
    state, walked, invariants = cut_scan(operands, attrs)
    carries, walked = len(state), [np.moveaxis(x, axis, 0) for x in walked]
    if not len(walked[0]):  # one step on zeros shows the shapes of the results
        ys = body(*state, *(np.zeros(x.shape[1:], x.dtype) for x in walked), *invariants, index=0)[carries:]
        return (*state, *(np.empty((*y.shape[:axis], 0, *y.shape[axis:]), y.dtype) for y in ys))
    stacked = []
    for index, xs in enumerate(zip(*walked, strict=True)):
        results = body(*state, *xs, *invariants, index=index)
        state = results[:carries]
        stacked.append(results[carries:])
    return (*state, *(np.stack(ys, axis=axis) for ys in zip(*stacked, strict=True)))


def _cost_scan(ins: Types, outs: Types, body: Cost, axis: int, **attrs: Any) -> Cost:
    walked = cut_scan(ins, attrs)[1][0]
    assert walked is not None
    return body.times(walked.sizes[axis])


scan = define_op(
    OpDef(
        "scan",
        ("operands*",),
        infer=_infer_scan,
        ref=_ref_scan,
        cost=_cost_scan,
        samples=(),
        attrs={"carries": integer(1, least=0), "axis": integer(0, least=0), "invariants": integer(0, least=0)},
        region=_scan_arguments,
        rounds=lambda types, attrs: cut_scan(types, attrs)[1][0].shape[int(attrs["axis"])],
        axes=Axes.LOOP,
        gradient=reads_operands,
        doc="a loop along one axis that carries a state: (carries, xs, invariants) -> (last carries, stacked ys)",
        example="""model @running_sum(%start: f32[B, 8], %x: f32[B, T, 8]) -> f32[B, 8], f32[B, T, 8] {
  %last, %sums = scan(%start, %x) {axis = 1} (%state, %row) {
    %sum = add(%state, %row)
    yield %sum, %sum
  }
  return %last, %sums
}
""",
    )
)


def strictly_lower(b: Builder, count: Any, dtype: DType) -> Value:
    """[g, g], 1 where the column is before the row."""
    index = b.iota(length=count)
    column, row = b.reshape(index, shape=(1, count)), b.reshape(index, shape=(count, 1))
    return b.cast(b.less(column, row), dtype=dtype)


def _infer_prefix_sum(x: TensorType, cumsum: str) -> TensorType:
    if x.rank < 2:
        raise IRError(f"prefix_sum runs over axis 1 of its operand, got {x}")
    return x


def _decompose_prefix_sum(b: Builder, x: Value, cumsum: str) -> Value:
    if cumsum == "native":
        return b.cumsum(x, axis=1, exclusive=True)
    if cumsum == "matmul":
        batch, count, *rest = x.type.shape
        flat = b.reshape(x, shape=(batch, count, _product(rest)))
        return b.reshape(b.matmul(strictly_lower(b, count, x.type.dtype), flat), shape=x.type.shape)
    body = b.subgraph()
    step = x.type.with_shape((x.type.shape[0], *x.type.shape[2:]))
    state, item = body.input("state", step), body.input("x", step)
    zeros = b.broadcast(b.constant(0.0, x.type.dtype), shape=step.shape)
    region = body.finish(body.add(state, item), state)
    _, before = b.results("scan", zeros, x, carries=1, axis=1, body=region)
    return before


def _product(sizes: Any) -> Any:
    return prod(sizes, start=1)


prefix_sum = define_op(
    OpDef(
        "prefix_sum",
        ("x",),
        infer=_infer_prefix_sum,
        ref=lambda x, cumsum: _sum_before(x, 1),
        cost=moved,
        samples=tuple(sample("f32[2, 3, 4, 5]", cumsum=kind) for kind in ("scan", "matmul", "native")),
        attrs={"cumsum": choice("scan", "matmul", "native")},
        decompose=_decompose_prefix_sum,
        doc="exclusive running sum over axis 1, by a strategy",
        source="Eq. 8",
    )
)
