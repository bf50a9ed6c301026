"""Check the program in an archive: only operators of the emitters, on its own tensors, are allowed.

PyTorch's loader executes what `models/model.json` names: any registered operator, any function of `torch`, `operator`
and `math`, classes and modules; names of values become Python source. So the file is parsed here first, with an
allowlist of all that exports of flashir contain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from flashir.errors import ArtefactError
from flashir.files.foreign import parse_json
from flashir_torch.expressions import problem as fault
from flashir_torch.schema import Argument, Graph, NamedArgument, NamedProgram, Node, Program, Tree

ATEN = frozenset(
    (
        "_assert_tensor_metadata", "add", "addcmul", "amax", "amin", "arange", "bmm", "cat", "clamp", "clone",
        "constant_pad_nd", "cos", "cumsum", "div", "embedding", "erf", "exp", "expand", "expand_as", "flatten", "flip",
        "floor_divide", "full", "gelu", "gt", "index_select", "layer_norm", "le", "linear", "log", "logical_and", "lt",
        "matmul", "maximum", "mean", "minimum", "movedim", "mul", "narrow", "neg", "permute", "reciprocal", "relu",
        "reshape", "rsub", "scaled_dot_product_attention", "scatter", "sigmoid", "silu", "sin", "slice", "softmax",
        "split_with_sizes", "sqrt", "square", "squeeze", "sub", "sum", "sym_size", "t", "tanh", "to", "transpose",
        "unflatten", "unsqueeze", "view", "where", "conv1d", "conv_transpose1d",
    )
)  # fmt: skip
"""The operators in exports. All their overloads without mutation are allowed."""

IN_PLACE = frozenset(("torch.ops.aten.add_.Tensor", "torch.ops.aten.relu_.default", "torch.ops.aten.silu_.default"))
"""In-place operators of `flashir_torch.reuse`: they overwrite a product with no other reader."""

PRODUCTS = frozenset(
    (
        "torch.ops.aten.bmm.default",
        "torch.ops.aten.linear.default",
        "torch.ops.aten.matmul.default",
        "torch.ops.aten.add_.Tensor",
    )
)
"""Operators whose results own their memory and may be overwritten."""

OF_SIZES = frozenset(("_operator.add", "_operator.floordiv", "_operator.mul", "_operator.sub", "torch.sym_max"))
"""Arithmetic of sizes, only on numbers."""

WORDS = frozenset(("none", "tanh"))
"""The allowed string arguments: those of gelu."""

SCAN = "torch.ops.higher_order.scan"

MOST_BITS = 1024
"""Most bits of a size during a run, if those of the inputs have 64."""

MOST_EXPRESSIONS = 5000
LISTED = 10
TRUST = "load only what you, or someone you trust, exported"
SIZE_BITS = 64


def targets(program: Program) -> frozenset[str]:
    """The operators that a program calls."""
    return frozenset(node.target for graph in _graphs(program.graph_module.graph) for node in graph.nodes)


def check_program(content: bytes, path: Path) -> Program:
    """Parse `models/model.json` as an exported program.

    Raises:
        ArtefactError: lists everything that an export of flashir does not contain.
    """
    problem = "it holds no program that flashir exports"
    named = parse_json(content, path, ArtefactError, NamedProgram, problem=problem, hint=TRUST)
    called = dict.fromkeys(node.target for node in named.graph_module.graph.nodes)
    problems = [f"it calls {name[:100]}, which no export does" for name in called if not _is_known(name)]
    if not problems:
        program = parse_json(content, path, ArtefactError, Program, problem=problem, hint=TRUST)
        problems = list(dict.fromkeys(_problems(program)))
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise ArtefactError([*problems[:LISTED], *more], where=str(path), hint=TRUST)
    for call in program.graph_module.module_call_graph:
        for text in () if call.signature is None else (call.signature.in_spec, call.signature.out_spec):
            odd = "its arguments are nested oddly"
            parse_json(text, path, ArtefactError, tuple[Literal[1], Tree], problem=odd, hint=TRUST)
    return program


def _problems(program: Program) -> Iterator[str]:
    module = program.graph_module
    for graph in _graphs(module.graph):
        yield from _of_graph(graph, ("as_tensor",) if graph is module.graph else ("as_tensor", "as_sym_int"))
    for spec in module.signature.input_specs:
        if (spec.user_input is None) == (spec.parameter is None):
            yield "an input must be one of the user or a parameter"
        elif spec.user_input is not None and _kind(spec.user_input.arg) != "as_tensor":
            yield "an input of the user must be a tensor"
    if any(_kind(spec.user_output.arg) != "as_tensor" for spec in module.signature.output_specs):
        yield "a result must be a tensor"
    expressions = {*program.guards_code, *_expressions(module.graph)}
    if len(expressions) > MOST_EXPRESSIONS:
        yield f"it has {len(expressions)} expressions, more than {MOST_EXPRESSIONS}"
        return
    for text in sorted(expressions):
        if (what := fault(text)) is not None:
            yield f"it would evaluate {text[:80]!r}, which {what}"


def _of_graph(graph: Graph, inputs: Iterable[str]) -> Iterator[str]:
    """Problems of the calls of a graph, and of its inputs and outputs."""
    if wrong := {_kind(value) for value in graph.inputs} - {*inputs}:
        yield f"an input of its graph is {', '.join(sorted(wrong))}"
    if wrong := {_kind(value) for value in graph.outputs} - {"as_tensor"}:
        yield f"a result of its graph is {', '.join(sorted(wrong))}"
    bits: dict[str, int] = {}
    owned: set[str] = set()
    for node in graph.nodes:
        kinds = {_kind(operand.arg) for operand in node.inputs}
        if not _is_known(node.target):
            yield f"it calls {node.target}, which no export does"
        elif node.target in IN_PLACE and not _names(node.inputs[:1]) <= owned:
            yield f"it calls {node.target} on a tensor that is not its own"
        elif node.target in OF_SIZES:
            if not kinds <= {"as_int", "as_sym_int"} or len(node.inputs) != 2:
                yield f"it calls {node.target} on something else than sizes"
            elif _grown(node, bits) > MOST_BITS:
                yield "a size becomes too large while it runs"
        elif ("as_graph" in kinds) != (node.target == SCAN):
            yield f"it calls {node.target} with another kind of body"
        elif words := {operand.arg.as_string for operand in node.inputs if operand.arg.as_string is not None} - WORDS:
            yield f"it calls {node.target} with {', '.join(map(repr, sorted(words)))}"
        if node.target in PRODUCTS:
            owned |= {value.as_tensor.name for value in node.outputs if value.as_tensor is not None}
    if "" in {_kind(value) for node in graph.nodes for value in node.outputs}:
        yield "a result of an operator is none"


@cache
def _is_known(target: str) -> bool:
    """Whether exports contain this operator. Tensor operators are allowed in every overload without mutation."""
    if target in IN_PLACE or target in OF_SIZES or target == SCAN:
        return True
    match target.split("."):
        case ["torch", "ops", "aten", name, overload] if name in ATEN:
            operator = getattr(getattr(torch.ops.aten, name), overload, None)
            return isinstance(operator, torch._ops.OpOverload) and not operator._schema.is_mutable
    return False


def _kind(argument: Argument) -> str:
    """The name of the only field that is set; empty if there is not exactly one."""
    fields = [name for name in argument.__struct_fields__ if getattr(argument, name) is not None]
    return fields[0] if len(fields) == 1 else ""


def _names(inputs: Iterable[NamedArgument]) -> set[str]:
    return {operand.arg.as_tensor.name if operand.arg.as_tensor is not None else "" for operand in inputs}


def _grown(node: Node, bits: dict[str, int]) -> int:
    """The most bits of the result of arithmetic on sizes; also records it in `bits`."""
    sizes = [_bits(operand.arg, bits) for operand in node.inputs]
    grown = sum(sizes) if node.target == "_operator.mul" else max(sizes) + 1
    bits.update((name, grown) for value in node.outputs if (name := _size_name(value)) is not None)
    return grown


def _bits(argument: Argument, bits: dict[str, int]) -> int:
    if argument.as_int is not None:
        return argument.as_int.bit_length()
    name = _size_name(argument)
    return SIZE_BITS if name is None else bits.get(name, SIZE_BITS)


def _size_name(argument: Argument) -> str | None:
    return None if argument.as_sym_int is None else argument.as_sym_int.as_name


def _expressions(graph: Graph) -> Iterator[str]:
    """Every expression in a graph and its loops."""
    for inner in _graphs(graph):
        sizes = [*inner.sym_int_values.values()]
        for meta in inner.tensor_values.values():
            sizes += (*meta.sizes, *meta.strides, meta.storage_offset)
        yield from (size.as_expr.expr_str for size in sizes if size.as_expr is not None)


def _graphs(graph: Graph) -> Iterator[Graph]:
    """A graph and the bodies of its loops."""
    yield graph
    bodies = (operand.arg.as_graph for node in graph.nodes for operand in node.inputs)
    for body in bodies:
        if body is not None:
            yield from _graphs(body.graph)
