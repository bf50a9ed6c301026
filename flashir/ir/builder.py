"""The builder: the only way to make a graph. It infers the type of every node on insertion.

b = Builder("double")
x = b.input("x", "f32[B, 4]")
graph = b.finish(b.add(x, x))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np

from flashir.arguments import shown, typed
from flashir.errors import ArgumentError, FlashirError, IRError
from flashir.ir.graph import MODEL_NAME, VALUE_NAME, Attr, Graph, Node, Value
from flashir.ir.limits import LONGEST_NAME
from flashir.ir.loops import check_loops
from flashir.ir.op import OpDef, opdef
from flashir.ir.text.grammar import parse_type
from flashir.ir.types import DType, TensorType

Operand = Value | int | float | None


class Builder:
    """Collects nodes into a graph.

    Every op is a method that returns its first result: `b.relu(x)`, `b.transpose(x, perm=(1, 0))`. `results` returns
    all results. Optional operands may be passed by name. A Python number becomes a constant with the dtype of the
    first operand that is not a bool.
    """

    @typed
    def __init__(self, name: str = "main") -> None:
        if not isinstance(name, str) or not MODEL_NAME.match(name):
            raise IRError(f"a model must be named by at most {LONGEST_NAME} letters, digits and _.+-, got {name!r}")
        self.name = name
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self._producers: dict[Value, Node] = {}
        self._produced = 0
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    @typed
    def input(self, name: str, type_: TensorType | str) -> Value:
        """Add an input of the graph. The type may be IR text: `"f32[B, T, 768]"`."""
        if isinstance(type_, str):
            type_ = parse_type(type_)
        if not isinstance(type_, TensorType):
            raise IRError(f"the type of an input must be text such as 'f32[B, T, 768]' or a TensorType, got {type_!r}")
        value = Value(self._fresh(name), type_)
        self.inputs.append(value)
        return value

    def insert(
        self,
        op: str,
        inputs: Sequence[Operand],
        attrs: Mapping[str, Attr] | None = None,
        region: Graph | None = None,
        names: Sequence[str] = (),
    ) -> tuple[Value, ...]:
        """Add a node and return its results. Raises FlashirError with the op and the problem."""
        if not isinstance(inputs, Sequence) or not (attrs is None or isinstance(attrs, Mapping)):
            raise ArgumentError(
                f"an op takes a list of operands and a mapping of attributes, got {shown(inputs)} and {shown(attrs)}",
                where=shown(op),
            )
        record = opdef(op)
        try:
            frozen = {name: _frozen(value) for name, value in (attrs or {}).items()}
            complete = record.complete(frozen, tuple(self.nodes) if record.inherit else ())
            operands = self._operands(record, inputs)
            types = infer_types(record, [v.type if v else None for v in operands], complete, region)
            if region is not None:
                check_loops([Node(op, operands, (), complete, region)])
        except FlashirError as error:
            if error.where:
                raise
            operand_text = ", ".join(f"{v}: {v.type}" if isinstance(v, Value) else shown(v) for v in inputs)
            raise IRError(error.problems, where=f"in {op}({operand_text})", hint=error.hint) from None
        if names and len(names) != len(types):
            raise IRError(f"{op} has {len(types)} results, {len(names)} are named")
        stems = list(names) or [op] * len(types)
        outputs = tuple(Value(self._fresh(stem, numbered=not names), t) for stem, t in zip(stems, types, strict=True))
        return self.append(Node(op, operands, outputs, complete, region))

    def copy(self, node: Node, operands: Sequence[Value | None], region: Graph | None = None) -> tuple[Value, ...]:
        """Add a copy of a node of another graph, without inference or checks.

        Args:
            node: a node of a graph made by a builder.
            operands: values of this builder with the same types as its operands.
            region: the new region.
        """
        outputs = tuple(self._renamed(value) for value in node.outputs)
        values = zip((*node.inputs, *node.outputs), (*operands, *outputs), strict=True)
        is_same = region is node.region and all(old is new for old, new in values)  # a graph has one object per value
        return self.append(node if is_same else Node(node.op, tuple(operands), outputs, node.attrs, region))

    def inline(self, nodes: Iterable[Node], values: dict[Value, Value]) -> None:
        """Insert nodes of another graph, with types inferred from new operands.

        Args:
            nodes: nodes of the other graph in order.
            values: values of that graph -> values of this builder. The results of the nodes are added.
        """
        for node in nodes:
            operands = [None if value is None else values[value] for value in node.inputs]
            names = [value.name for value in node.outputs]
            values |= zip(node.outputs, self.insert(node.op, operands, node.attrs, node.region, names), strict=True)

    def copy_input(self, value: Value) -> Value:
        """Add an input of another graph as an input of this one."""
        self.inputs.append(self._renamed(value))
        return self.inputs[-1]

    def _renamed(self, value: Value) -> Value:
        """The value, renamed if its name is taken."""
        if value.name in self._taken:
            return Value(self._fresh(value.name), value.type)
        self._taken.add(value.name)
        return value

    def append(self, node: Node) -> tuple[Value, ...]:
        """Add a node that is already typed. Builders that rewrite on insertion override this."""
        self.nodes.append(node)
        return node.outputs

    def producer(self, value: Value | None) -> Node | None:
        """The node that computes the value; None for an input of the graph."""
        for node in self.nodes[self._produced :]:  # what nobody asks for is not looked up
            self._producers.update(dict.fromkeys(node.outputs, node))
        self._produced = len(self.nodes)
        return None if value is None else self._producers.get(value)

    @typed
    def finish(self, *outputs: Value) -> Graph:
        """Return the finished graph. Raises IRError if its loops have too many layers or steps."""
        self._check_values("finish", outputs)
        check_loops(self.nodes)
        return Graph(self.name, tuple(self.inputs), tuple(self.nodes), outputs)

    def repeat(
        self,
        x: Value,
        *invariants: Value,
        times: int,
        body: Callable[..., Value] | Graph,
    ) -> Value:
        """Apply a stack of layers, each with its own parameters.

        Args:
            x: the input of the first layer.
            invariants: values that every layer gets unchanged, such as segment ids.
            times: the number of layers.
            body: one layer, as a function `(builder, x, *invariants) -> x` or as a finished graph.
        """
        if not isinstance(body, Graph):
            self._check_values("repeat", (x, *invariants))
            if not callable(body):
                raise IRError(f"the body of repeat must be a function (builder, x, *invariants) -> x, got {body!r}")
            inner = self.subgraph()
            arguments = [inner.input(name, v.type) for name, v in zip(_names("h", invariants), (x, *invariants))]
            result = body(inner, *arguments)
            if not isinstance(result, Value):
                raise IRError(f"the body of repeat must return a value, it returned {result!r}")
            body = inner.finish(result)
        return self.insert("repeat", (x, *invariants), {"times": times}, body)[0]

    def subgraph(self) -> Builder:
        """A builder for the region of a node in this graph."""
        return Builder("body")

    def constant(self, value: float | int | bool, dtype: DType = DType.F32) -> Value:
        """Add a constant of shape []."""
        return self.insert("constant", (), {"value": value, "dtype": dtype})[0]

    def results(self, op: str, *operands: Operand, **attrs: Any) -> tuple[Value, ...]:
        """Apply an op and return all its results: `u, v = b.results("split", x, axis=-1, sizes=(8, 8))`."""
        record = opdef(op)
        named = [name.rstrip("?") for name in record.operands if name.endswith("?")]
        optional = {name: attrs.pop(name) for name in named if name in attrs}
        inputs = list(operands)
        for name in named[len(inputs) - record.arity[0] :] if optional else ():
            inputs.append(optional.pop(name, None))
        region = attrs.pop("body", None)
        return self.insert(op, inputs, attrs, region)

    def __getattr__(self, op: str) -> Callable[..., Value]:
        if op.startswith("_"):
            raise AttributeError(op)
        opdef(op)

        def insert(*operands: Operand, **attrs: Any) -> Value:
            return self.results(op, *operands, **attrs)[0]

        return insert

    def _operands(self, record: OpDef, inputs: Sequence[Operand]) -> tuple[Value | None, ...]:
        """The operands with numbers as constants and without trailing None. Raises IRError for a wrong count."""
        inputs = list(inputs)
        self._check_values(record.name, inputs, (int, float, np.number, NoneType))
        while inputs and inputs[-1] is None:
            inputs.pop()
        least, most = record.arity
        if len(inputs) < least or (most is not None and len(inputs) > most):
            expected = (
                str(least) if most == least else f"{least} to {most}" if most is not None else f"at least {least}"
            )
            raise IRError(f"{record.name} takes {expected} operands ({', '.join(record.operands)}), got {len(inputs)}")
        if None in (inputs if most is None else inputs[:least]):
            raise IRError(
                f"{record.name} needs all of its operands that are not optional ({', '.join(record.operands)})"
            )
        values = [v for v in inputs if isinstance(v, Value)]
        if len(values) == len(inputs):
            return tuple(values)
        like = next((v.type.dtype for v in values if v.type.dtype is not DType.BOOL), DType.F32)
        return tuple(self._operand(v, like) for v in inputs)

    def _operand(self, operand: Operand, like: DType) -> Value | None:
        """The operand, with a number as a constant."""
        if operand is None or isinstance(operand, Value):
            return operand
        if isinstance(operand, (int, float, np.number)):
            return self.constant(operand, like)
        raise IRError(f"an operand must be a value or a number, got {shown(operand)}")

    def _check_values(self, what: str, operands: Sequence[Any], others: tuple[type, ...] = ()) -> None:
        """Raise IRError for an operand that is neither a value of this builder nor of one of the other types."""
        problems = []
        for position, operand in enumerate(operands):
            if isinstance(operand, Value):
                if operand.name not in self._taken:
                    problems.append(
                        f"operand {position} of {what}, {operand}: {operand.type}, was made by another builder"
                    )
            elif not isinstance(operand, others):
                problems.append(f"operand {position} of {what} must be a value of this builder, got {operand!r}")
        if problems:
            raise IRError(problems)

    def _fresh(self, stem: str, numbered: bool = False) -> str:
        """The first free name among `stem_0`, `stem_1`, ..; the stem itself if it is free and not `numbered`."""
        if not isinstance(stem, str) or not VALUE_NAME.match(stem):
            raise IRError(f"a value must be named by at most {LONGEST_NAME} letters, digits, _ and ., got {stem!r}")
        name = stem
        while name in self._taken or numbered:
            numbered = False
            self._counts[stem] = count = self._counts.get(stem, -1) + 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name


def infer_types(
    record: OpDef, types: Iterable[TensorType | None], attrs: Mapping[str, Attr], region: Graph | None
) -> tuple[TensorType, ...]:
    """The types of an op's results. Raises IRError if the operands do not fit or a parameter is too large."""
    if (record.region is None) != (region is None):
        raise IRError(f"{record.name} {'needs a' if record.region else 'takes no'} body")
    body = {"body": region} if record.region else {}
    result = record.infer(*types, **attrs, **body)
    if record.params is not None:
        record.params(*types, **attrs)
    return result if isinstance(result, tuple) else (result,)


def _names(first: str, others: Sequence[Value]) -> list[str]:
    return [first, *(value.name for value in others)]


def _frozen(value: Any) -> Attr:
    """The value with lists as tuples and NumPy scalars as Python numbers."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    attr: Attr = value.item() if isinstance(value, np.generic) else value
    return attr
