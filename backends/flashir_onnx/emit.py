"""Lowered graph -> ONNX model. Every `repeat` becomes a function that is called once per layer, or flat nodes.

`emit` collects nodes in the scopes of `scope.py`: an op by its emitter in `emitters.py`, loops and branches here. What
depends on parameters alone is computed now (`static.py`), and stays outside of the model (`weights.py`) until
`artefact.py` writes both, or `session.py` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import FunctionProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto, helper

from flashir.ir import DType, Graph, Node, TensorType, Value
from flashir.ir.dims import Size, symbol_of
from flashir.ir.parameter_names import round_symbol
from flashir.ops import OPS
from flashir.ops.primitive.scan import cut_scan
from flashir.transforms.lower import descend
from flashir.transforms.rewriter import rewrite
from flashir.transforms.token_analysis import part_of
from flashir.version import __version__
from flashir_onnx import contrib, portable
from flashir_onnx.closed_sums import any_true
from flashir_onnx.emitters import EMITTERS, Emitter
from flashir_onnx.form import FORM, WIDE, Form
from flashir_onnx.scope import ClosedScope, MainScope, Need, RoundScope, Scope, SubgraphScope
from flashir_onnx.static import StaticValues
from flashir_onnx.types import check_dtypes, element_type, numpy_type, value_info
from flashir_onnx.weights import Weights

DOMAIN = "flashir"
PRODUCER = "flashir"
ABOUT = "written by flashir, which keeps the text of the model in the metadata `flashir.model`"
MEANINGS = {
    "input_ids": "token ids, from 0 to below the vocabulary",
    "position_ids": "how many tokens come before each in its row; -1 for padding",
    "segment_ids": "the document that each token belongs to",
    "mask": "true for real tokens, false for padding",
    "lengths": "the number of real tokens in each row",
    "logits": "scores of every token of the vocabulary, before softmax",
}
"""The doc_strings of inputs and outputs by name."""

NO_EMITTERS: Mapping[str, Emitter] = {}
STRUCTURED = frozenset(("repeat", "scan", "param"))
TOKENS = ("input_ids", "segment_ids")
"""Inputs that hold token or segment ids."""
Guard = Callable[[MainScope, Graph], None]


@dataclass(frozen=True)
class Emitted:
    """An ONNX model without its weights, and the weights."""

    model: ModelProto
    weights: Weights


def emit(
    graph: Graph,
    params: Mapping[str, npt.NDArray[Any]],
    results: Sequence[str] = (),
    *,
    inputs: Sequence[str] = (),
    guard: Guard | None = None,
    few_rows: bool = False,
    form: Form = FORM,
    own: Mapping[str, Emitter] = NO_EMITTERS,
) -> Emitted:
    """The ONNX model of a lowered graph.

    Args:
        graph: the graph, lowered for ONNX.
        params: parameters by full name.
        results, inputs: their ONNX names; empty for the default names.
        few_rows: whether products mostly have a row or two, as in a decoder.
        guard: emits nodes that check the inputs, and rebinds the inputs to their results; see `flashir_onnx.guard`.
        form: the opset, and what else does not change results.
        own: emitters for further ops, of a backend that claims them.

    Raises:
        TargetError: ONNX Runtime does not support a dtype.
    """
    _check_types(graph)
    main = MainScope(params, form.opset)
    main.few_rows = few_rows
    names = interface_names(graph) | dict(zip(graph.inputs, inputs))
    symbols = _dimension_names(graph, names)
    for value in graph.inputs:
        main.bind(names[value], value)
    narrow = {names[value] for value in graph.inputs if names[value] in TOKENS} if form.ids != WIDE else frozenset()
    for value in graph.inputs:
        if names[value] in narrow:
            main.names[value] = main.one("Cast", main.names[value], to=element_type(value.type.dtype))
    outputs = list(results) or _output_names(graph, names)
    main.taken.update(outputs)
    if guard is not None:
        guard(main, graph)
    emitter = _GraphEmitter(_opsets(graph, form), form, own)
    emitter.nodes(main, graph, 0)
    _name_results(main.nodes, [emitter.name(main, value) for value in graph.outputs], outputs)

    def infos(values: tuple[Value, ...], called: Sequence[str]) -> list[ValueInfoProto]:
        typed_names = [value_info(name, value.type, symbols) for value, name in zip(values, called, strict=True)]
        for info in typed_names:
            info.doc_string = MEANINGS.get(info.name, "")
        return typed_names

    weights = Weights(main.initializers)
    input_infos = infos(graph.inputs, [names[value] for value in graph.inputs])
    for info in input_infos:
        if info.name in narrow:
            info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(form.ids))
    body = helper.make_graph(main.nodes, graph.name, input_infos, infos(graph.outputs, outputs), weights.stand_ins())
    model = helper.make_model(
        body, opset_imports=emitter.opsets, functions=emitter.functions, ir_version=form.ir_version,
        producer_name=PRODUCER, producer_version=__version__, doc_string=f"{graph.name}, {ABOUT}",
    )  # fmt: skip
    return Emitted(model, weights)


def _name_results(nodes: list[NodeProto], names: Sequence[str], wanted: Sequence[str]) -> None:
    """Rename the results of nodes to the wanted names. Inputs, and results with several names, get an Identity.

    An Identity for every result would copy it, and would prevent updating a state in place.
    """
    produced = {name for node in nodes for name in node.output}
    new = {name: called for name, called in zip(reversed(names), reversed(wanted)) if name in produced}
    rename(nodes, new)
    for name, called in zip(names, wanted, strict=True):
        if new.get(name) != called:
            nodes.append(helper.make_node("Identity", [new.get(name, name)], [called], name=called))


def rename(nodes: Iterable[NodeProto], new: Mapping[str, str]) -> None:
    """Rename values in place, including those in the bodies of loops."""
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
        for attribute in node.attribute:
            rename(attribute.g.node, new)


def _opsets(graph: Graph, form: Form) -> list[OperatorSetIdProto]:
    """The opsets that the model uses: the standard, its own functions, and ONNX Runtime's operators."""
    ops = {node.op for node in graph.walk()}
    used = {"": form.opset} | ({DOMAIN: 1} if "repeat" in ops and not form.portable else {})
    used |= {} if form.portable or ops.isdisjoint(contrib.EMITTERS) else {contrib.DOMAIN: contrib.VERSION}
    return [helper.make_opsetid(domain, version) for domain, version in used.items()]


def interface_names(graph: Graph) -> dict[Value, str]:
    """Names of inputs and outputs: `input_ids`, `segment_ids`, `mask`, `logits` for token models."""
    names = {value: value.name for value in (*graph.inputs, *graph.outputs)}
    pairs = [value for value in graph.inputs if value.type.rank == 2 and not value.type.dtype.is_float]
    tokens = [value for value in pairs if value.type.dtype is not DType.BOOL]
    masks = [value for value in pairs if value.type.dtype is DType.BOOL]
    known = len(pairs) == len(graph.inputs) and 1 <= len(tokens) <= 2 and len(masks) <= 1
    if known and graph.inputs[0] in tokens:
        names.update(zip(tokens, ("input_ids", "segment_ids")))
        names.update(zip(masks, ("mask",)))
        if len(graph.outputs) == 1:
            names[graph.outputs[0]] = "logits"
    return names


def result_names(model: Graph) -> list[str]:
    """The names of several results, as in the user's model. `emit` names a single result."""
    return _output_names(model, interface_names(model)) if len(model.outputs) > 1 else []


def _output_names(graph: Graph, interface: Mapping[Value, str]) -> list[str]:
    """The names of the results. One that is an input, or a duplicate, is called `x_result`, `x_result_2`."""
    taken = {interface[value] for value in graph.inputs}
    names = []
    for value in graph.outputs:
        name, count = interface[value], 1
        while name in taken:
            name = f"{interface[value]}_result" + (f"_{count}" if count > 1 else "")
            count += 1
        taken.add(name)
        names.append(name)
    return names


def _dimension_names(graph: Graph, interface: Mapping[Value, str]) -> dict[str, str]:
    """Names of symbolic sizes. `B` and `T` of a token model become `batch` and `sequence`."""
    names = {str(size): str(size) for value in graph.inputs for size in value.type.shape}
    if graph.inputs and interface[graph.inputs[0]] == "input_ids":
        names.update(zip(map(str, graph.inputs[0].type.shape), ("batch", "sequence")))
    return names


def _check_types(graph: Graph) -> None:
    values = {v for node in graph.walk() for v in (*node.operands, *node.outputs)} | set(graph.inputs)
    check_dtypes(value.type.dtype for value in values)


class _GraphEmitter:
    """Walks a graph and its regions, and collects the functions."""

    def __init__(self, opsets: list[OperatorSetIdProto], form: Form, own: Mapping[str, Emitter]) -> None:
        self.opsets, self.form = opsets, form
        self.table = {**EMITTERS, **(portable.EMITTERS if form.portable else contrib.EMITTERS), **own}
        self.functions: list[FunctionProto] = []
        self._static: dict[int, StaticValues] = {}

    def nodes(self, scope: Scope, graph: Graph, depth: int) -> None:
        """Emit the nodes of a graph, or of a body inside `depth` repeats. Static values have none, see `name`."""
        static = StaticValues(graph)
        self._static[id(scope)] = static
        for node in graph.nodes:
            if any(value in static for value in node.outputs):
                continue
            if node.op == "repeat":
                repeat = self._in_place if self.form.portable else self._repeat
                results: str | tuple[str, ...] = repeat(scope, node, depth)
            elif node.op == "scan":
                results = self._scan(scope, node, depth)
            elif OPS[node.op].needed_if and node.op not in self.table:
                results = self._if_needed(scope, node, depth)
            else:
                results = self.table[node.op](scope, node, *(self.name(scope, value) for value in node.operands))
            named = (results,) if isinstance(results, str) else results
            scope.names.update(zip(node.outputs, named, strict=True))

    def name(self, scope: Scope, value: Value) -> str:
        """The ONNX name of a value. A static one becomes a weight, or an input of the function, when it is read."""
        if value not in scope.names:
            scope.names[value] = scope.resolve(Need(static=self._static[id(scope)], value=value))
        return scope.names[value]

    def _repeat(self, scope: Scope, node: Node, depth: int) -> str:
        """A function of the body, and a call for each round with the weights of that round."""
        body, times = node.region, node.attrs["times"]
        assert body is not None and isinstance(times, int)
        inside = ClosedScope(self.form.opset)
        for value in body.inputs:
            inside.names[value] = inside.fresh(value.name)
        self.nodes(inside, body, depth + 1)
        result = self.name(inside, body.outputs[0])
        inputs = [*(inside.names[value] for value in body.inputs), *inside.captured.values()]
        if result in inputs:
            result = inside.one("Identity", result)
        kind = f"layer_{len(self.functions)}" if self.functions else "layer"
        self.functions.append(helper.make_function(DOMAIN, kind, inputs, [result], inside.nodes, self.opsets))
        x, *invariants = (self.name(scope, value) for value in node.operands)
        symbol = round_symbol(depth)
        for index in range(times):
            captured = [scope.resolve(need.in_round(symbol, index)) for need in inside.captured]
            x = scope.one(kind, x, *invariants, *captured, domain=DOMAIN, stem=f"{kind}s.{index}")
        return x

    def _in_place(self, scope: Scope, node: Node, depth: int) -> str:
        """The nodes of the body for each round, among the nodes around it."""
        body, times = node.region, node.attrs["times"]
        assert body is not None and isinstance(times, int)
        x, *invariants = (self.name(scope, value) for value in node.operands)
        for index in range(times):
            inside = RoundScope(scope, round_symbol(depth), index)
            inside.names.update(zip(body.inputs, (x, *invariants), strict=True))
            self.nodes(inside, body, depth + 1)
            x = self.name(inside, body.outputs[0])
        return x

    def _if_needed(self, scope: Scope, node: Node, depth: int) -> str:
        """An `If`: the parts of the op where its mask has a true element, otherwise its first operand."""
        part = rewrite(part_of(node), descend(lambda inner: inner.op in self.table, "onnx"))
        first, mask = node.operands[0], node.operands[OPS[node.op].operands.index(OPS[node.op].needed_if)]
        needed = any_true(scope, self.name(scope, mask))
        names = [self.name(scope, value) for value in node.operands]
        inside = SubgraphScope(scope)
        inside.names.update(zip(part.inputs, names, strict=True))
        self.nodes(inside, part, depth)
        same = SubgraphScope(scope)
        bodies = [(inside, self.name(inside, part.outputs[0])), (same, same.one("Identity", names[0]))]
        then, other = (
            helper.make_graph(body.nodes, "body", [], [value_info(result, first.type, {})]) for body, result in bodies
        )
        return scope.one("If", needed, then_branch=then, else_branch=other)

    def _scan(self, scope: Scope, node: Node, depth: int) -> tuple[str, ...]:
        """A Scan over an axis. Its body sees the values around it; in a flat model it carries them unchanged."""
        body, axis = node.region, node.attrs["axis"]
        assert body is not None and isinstance(axis, int)
        carried, sliced, invariants = cut_scan(node.operands, node.attrs)
        stacked_values = node.outputs[len(carried) :]
        if sliced[0].type.shape[axis] == 0:  # ONNX Runtime fails on an empty loop
            return (*(self.name(scope, value) for value in carried), *(_nothing(scope, v.type) for v in stacked_values))
        count = len(carried) + len(sliced)
        own, seen = body.inputs[:count], dict(zip(body.inputs[count:], invariants, strict=True))
        inside = ClosedScope(self.form.opset, scope.taken) if self.form.portable else SubgraphScope(scope)
        inside.names.update({value: inside.fresh(value.name) for value in own})
        if isinstance(inside, SubgraphScope):
            inside.names.update({value: self.name(scope, outer) for value, outer in seen.items()})
        else:
            inside.names.update({value: inside.fresh(value.name) for value in seen})
        self.nodes(inside, body, depth)
        outputs = [inside.one("Identity", self.name(inside, value), stem=value.name) for value in body.outputs]
        inputs = [value_info(inside.names[value], value.type, {}) for value in own]
        results = [value_info(name, value.type, {}) for name, value in zip(outputs, body.outputs, strict=True)]
        starts = [self.name(scope, value) for value in carried]
        if isinstance(inside, ClosedScope):  # what the loop only reads is carried unchanged
            read = [(self.name(scope, outer), inside.names[value], value.type) for value, outer in seen.items()]
            read += [(scope.resolve(need), name, need.type) for need, name in inside.captured.items()]
            starts = [*(outer for outer, _, _ in read), *starts]
            inputs = [*(value_info(name, type_, {}) for _, name, type_ in read), *inputs]
            same = [(inside.one("Identity", name), type_) for _, name, type_ in read]
            results = [*(value_info(name, type_, {}) for name, type_ in same), *results]
        walked = [_to_front(scope, self.name(scope, value), value.type.rank, axis) for value in sliced]
        steps = sliced[0].type.shape[axis]
        may_be_none = symbol_of(steps) is not None  # a number of chunks is 1 at least, see Scope
        if may_be_none:
            walked = [_one_row_at_least(scope, name, value.type.rank, steps) for name, value in zip(walked, sliced)]
        scanned = scope.op(
            "Scan", *starts, *walked, body=helper.make_graph(inside.nodes, "body", inputs, results),
            num_scan_inputs=len(sliced), outputs=len(results),
        )[len(results) - len(node.outputs) :]  # fmt: skip
        rows = scanned[len(carried) :]
        if may_be_none:
            rows = tuple(_first_rows(scope, name, steps) for name in rows)
        stacked = zip(rows, stacked_values, strict=True)
        return (*scanned[: len(carried)], *(_from_front(scope, name, value.type.rank, axis) for name, value in stacked))


def _nothing(scope: Scope, type_: TensorType) -> str:
    """A value of this type without elements."""
    zero = scope.constant(np.zeros((), numpy_type(type_.dtype)))
    return scope.one("Expand", zero, scope.shape(*type_.shape))


def _one_row_at_least(scope: Scope, x: str, rank: int, rows: Size) -> str:
    """Pad an empty first axis with one row, because ONNX Runtime fails on an empty loop; any other stays."""
    count = scope.shape(rows)
    lacking = scope.one("Sub", scope.one("Max", count, scope.shape(1)), count, stem="lacking")
    others = [scope.shape(*[0] * (rank - 1))] if rank > 1 else []
    pads = scope.one("Concat", scope.shape(*[0] * rank), lacking, *others, axis=0)
    return scope.one("Pad", x, pads)


def _first_rows(scope: Scope, x: str, rows: Size) -> str:
    """So many of the first axis."""
    return scope.one("Slice", x, scope.shape(0), scope.shape(rows), scope.shape(0))


def _to_front(scope: Scope, x: str, rank: int, axis: int) -> str:
    """Move an axis to the front. The axes of Scan could do so, but crash ONNX Runtime 1.32 if a size is 0."""
    return scope.one("Transpose", x, perm=[axis, *range(axis), *range(axis + 1, rank)]) if axis else x


def _from_front(scope: Scope, x: str, rank: int, axis: int) -> str:
    """Move the first axis back, the inverse of `_to_front`."""
    return scope.one("Transpose", x, perm=[*range(1, axis + 1), 0, *range(axis + 1, rank)]) if axis else x
