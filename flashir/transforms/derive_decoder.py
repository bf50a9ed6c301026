"""to-extend, to-prefill, to-step: a causal model as graphs with explicit state.

`extend` reads any number of further tokens. `prefill` and `step` are the same split in two: a graph for a prompt, and a
graph for one token at a time.

This is claim or descend again. An op with a streaming rule (`OpDef.stream`) is decoded by it. A tokenwise op stays as
it is, on fewer tokens. Any other op is replaced by its decomposition; an error names a primitive that is neither. A
`repeat` is unrolled, because each layer has its own state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from flashir.errors import FlashirError, SettingError, option
from flashir.ir.builder import Builder
from flashir.ir.dims import Dim, Size, ceildiv, symbol_of
from flashir.ir.graph import AUTO, Attr, Graph, Node, Value
from flashir.ir.parameter_names import expand, round_symbol, with_scopes
from flashir.ir.streaming import States
from flashir.ir.types import DType, TensorType
from flashir.ops import OPS
from flashir.ops.decode.context import DecodeContext, column, equal, take_rows
from flashir.transforms.lower import own_parameters
from flashir.transforms.one_document import OneDocument
from flashir.transforms.pad import length_to_pad
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite
from flashir.transforms.token_analysis import Tokens
from flashir.transforms.whole_length import WithLength, divides_by_length

POSITION = "position"
Operands = Sequence[Value | None]


def to_prefill(
    model: Graph,
    *,
    many: bool = False,
    max_len: int | None = None,
    length: int | None = None,
    kept: DType | None = None,
) -> tuple[Graph, dict[str, TensorType]]:
    """`model(ids [b, t])` -> `prefill(ids [b, t], lengths [b])` -> logits [b, 1, v] of the last tokens, and the states.

    Rows are padded on the right. A prompt is one document: inputs that mask documents or padding are removed.
    The names and types of the states are returned as well, in the order of the results.

    Args:
        model: a causal model, with its chunk chosen.
        many: whether the states are those of `to_extend`, or those of `to_step`.
        max_len: the capacity of caches in tokens.
        length: the length of the whole sequence, if the model divides by it.
        kept: the type in which rings and caches hold rows; None for the type of the rows.

    Raises:
        SettingError: the model is not causal, or an op cannot be decoded token by token.
    """
    model = OneDocument().apply(model)
    source = _Source.of(model, length)
    b = Builder(model.name)
    ids = b.input("ids", source.ids)
    lengths = b.input("lengths", TensorType(DType.I32, source.ids.shape[:1]))
    padded = source.padded(model)
    if padded != source.time:
        ids = b.pad(ids, axis=1, after=padded - source.time)
    walk = _Prefill(source, DecodeContext(b, lengths, padded, lengths, many, max_len, kept))
    logits = _last_logits(walk, ids, lengths)
    states = walk.states if many else {POSITION: lengths, **walk.states}
    return b.finish(logits, *states.values()), {name: value.type for name, value in states.items()}


def to_step(
    model: Graph, states: Mapping[str, TensorType], *, max_len: int | None = None, length: int | None = None
) -> Graph:
    """`model(ids [b, t])` -> `step(ids [b, 1], *states)` -> logits [b, 1, v] of the new token, and the new states.

    Args:
        model, max_len, length: as in `to_prefill`.
        states: the names and types that `to_prefill` returned.
    """
    source = _Source.of(OneDocument().apply(model), length)
    b = Builder(model.name)
    ids = b.input("ids", source.ids.with_shape((source.ids.shape[0], 1)))
    before = {name: b.input(name, type_) for name, type_ in states.items()}
    seen = before[POSITION]
    walk = _Step(source, DecodeContext(b, seen, 1, max_len=max_len), before)
    (logits,) = walk.graph(source.graph, (ids,), "", {})
    assert logits is not None
    after = {**walk.states, POSITION: walk.now.after()}
    return b.finish(logits, *(after[name] for name in states))


def to_extend(
    model: Graph, states: Mapping[str, TensorType], *, max_len: int | None = None, length: int | None = None
) -> Graph:
    """`model(ids [b, t])` -> `extend(ids [b, t], positions [b, t], *states)` -> logits [b, 1, v], and the new states.

    The logits are those of each row's last token. A row's own tokens come first, and their positions count on from the
    first one; all others are padding. A row whose first position is negative has no token, and its states stay. Before
    the first token every state is zero.

    Args:
        model, max_len, length: as in `to_prefill`.
        states: the names and types that `to_prefill` returned with `many`. Where a state has no heads, its type may
            have an axis of size 1 for them.
    """
    source = _Source.of(OneDocument().apply(model), length)
    b = Builder(model.name)
    ids = b.input("ids", source.ids)
    positions = b.input("positions", TensorType(DType.I32, source.ids.shape))
    before = {name: b.input(name, type_) for name, type_ in states.items()}
    first = b.slice(positions, axis=1, stop=1)
    counted = equal(b, positions, b.add(first, b.iota(length=source.time)))
    counted = b.logical_and(counted, b.less_equal(0, positions))
    own = b.reduce_sum(b.cast(counted, dtype=DType.I32), axes=(1,))
    seen = b.reshape(b.maximum(first, 0), shape=source.ids.shape[:1])
    walk = _Step(source, DecodeContext(b, seen, source.time, own, many=True, max_len=max_len), before)
    logits = _last_logits(walk, ids, b.maximum(own, 1))
    return b.finish(logits, *(walk.states[name] for name in states))


def _last_logits(walk: _Walk, ids: Value, counts: Value) -> Value:
    """Rebuild the model for ids [b, t], its last node for the last of each row's `counts` [b] tokens alone."""
    b, (body, last) = walk.now.b, walk.source.cut()
    (x,) = walk.graph(body, (ids,), "", {})
    assert x is not None
    picked = take_rows(b, x, b.sub(column(b, counts), 1))
    (logits,) = _Prefill(walk.source, replace(walk.now, length=1)).graph(last, (picked,), "", {})
    assert logits is not None
    return logits


@dataclass(frozen=True)
class _Derive(Pass):
    optional = False
    max_len: int | None = None
    length: int | None = None


class ToPrefill(_Derive):
    """`model(ids)` -> `prefill(ids, lengths)`, the logits of the last tokens and the states; see `to_prefill`."""

    name = "to-prefill"

    def apply(self, graph: Graph) -> Graph:
        """The prefill graph. Raises SettingError if the model cannot be decoded."""
        return to_prefill(graph, max_len=self.max_len, length=self.length)[0]


class ToStep(_Derive):
    """`model(ids)` -> `step(ids, *states)`, the logits and the new states; see `to_step`."""

    name = "to-step"

    def apply(self, graph: Graph) -> Graph:
        """The step graph. Raises SettingError if the model cannot be decoded."""
        _, states = to_prefill(graph, max_len=self.max_len, length=self.length)
        return to_step(graph, states, max_len=self.max_len, length=self.length)


class ToExtend(_Derive):
    """`model(ids)` -> `extend(ids, positions, *states)`, the logits and the new states; see `to_extend`."""

    name = "to-extend"

    def apply(self, graph: Graph) -> Graph:
        """The graph for any number of further tokens. Raises SettingError if the model cannot be decoded."""
        _, states = to_prefill(graph, many=True, max_len=self.max_len, length=self.length)
        return to_extend(graph, states, max_len=self.max_len, length=self.length)


@dataclass(frozen=True)
class _Source:
    """A model prepared for the walk: its length is a multiple of every chunk.

    Args:
        graph: the model with the length `whole` and full names of its parameters.
        ids: the original type of its input.
        time: the original length, a symbol.
        whole: the length in `graph`, in whole chunks.
        tokens: the token analysis of `graph`.
    """

    graph: Graph
    ids: TensorType
    time: Size
    whole: Size
    tokens: Tokens

    @staticmethod
    def of(model: Graph, length: int | None) -> _Source:
        ids = _checked(model)
        time = ids.shape[1]
        chunks = {node.attrs["chunk"] for node in model.walk() if "chunk" in node.attrs}
        whole = time * lcm(*(chunk for chunk in chunks if isinstance(chunk, int)))
        graph = with_scopes(rewrite(model, WithLength(length), sizes={str(time): whole}))
        return _Source(graph, ids, time, whole, Tokens(str(time)))

    def padded(self, model: Graph) -> Size:
        """The length of a prompt in whole chunks if the model can be padded as a whole; otherwise the length itself."""
        if length_to_pad(model) is None:
            return self.time
        chunks = [node.attrs["chunk"] for node in model.walk() if "chunk" in node.attrs]
        multiple = lcm(*(chunk for chunk in chunks if isinstance(chunk, int)))
        return ceildiv(self.time, multiple) * multiple

    def cut(self) -> tuple[Graph, Graph]:
        """The model without its last node, and that node if it is tokenwise: it then runs for the last tokens only."""
        graph = self.graph
        last = graph.producers().get(graph.outputs[0])
        varying = [] if last is None else [value for value in last.operands if self.tokens.axes(value.type)]
        if (
            last is None
            or len(last.operands) != 1
            or len(varying) != 1
            or not self.tokens.alone(last)
            or self.tokens.axes(varying[0].type) != [1]
        ):
            x = graph.outputs[0]
            return graph, Graph(graph.name, (x,), (), (x,))
        rest = Graph(graph.name, tuple(varying), (last,), last.outputs)
        return replace(graph, nodes=graph.nodes[:-1], outputs=tuple(varying)), rest


def _checked(model: Graph) -> TensorType:
    """The type of the only input, ids [b, t]. Raises SettingError with all reasons why the model cannot be decoded."""
    problems = []
    wanted = [v for v in model.inputs if v.type.rank == 2 and v.type.dtype in (DType.I32, DType.I64)]
    if len(model.inputs) != 1 or len(wanted) != 1 or None in map(symbol_of, wanted[0].type.shape):
        shown = ", ".join(f"{value.name}: {value.type}" for value in model.inputs)
        problems.append(f"it takes ({shown}); the only input must be tokens [B, T], any number of rows of any length")
    if len(model.outputs) != 1:
        problems.append(f"it has {len(model.outputs)} results, wanted one")
    elif model.outputs[0].type.rank < 3:
        problems.append(f"its result is {model.outputs[0].type}; wanted a row for each token")
    for op in dict.fromkeys(node.op for node in model.walk() if node.attrs.get("causal") is False):
        problems.append(f"{op} is not causal: a token attends to later ones")
    for op in dict.fromkeys(node.op for node in model.walk() if node.attrs.get("chunk") is AUTO):
        problems.append(f"the chunk of {op} is part of the model, and still auto")
    if problems:
        raise SettingError(problems, where=f"decoding @{model.name}")
    return wanted[0].type


class _Walk(ABC):
    """Rebuilds a model in another graph, for the tokens of a context, and collects the states."""

    def __init__(self, source: _Source, now: DecodeContext) -> None:
        self.source, self.tokens, self.now = source, source.tokens, now
        self.states: dict[str, Value] = {}
        self._inside: list[str] = []
        self._count: Counter[str] = Counter()
        chunks = {node.attrs["chunk"] for node in source.graph.walk() if "chunk" in node.attrs}
        self._sizes = {source.whole: now.length}
        self._sizes |= {ceildiv(source.whole, n): self.chunks(n) for n in chunks if isinstance(n, int) and n > 1}

    @abstractmethod
    def chunks(self, chunk: int) -> Size:
        """The most chunks that the tokens can overlap."""

    @abstractmethod
    def continued(self, node: Node, operands: Operands, attrs: dict[str, Any], scope: str) -> Sequence[Value]:
        """The results of an op with a streaming rule."""

    def graph(self, graph: Graph, inputs: Operands, scope: str, rounds: Mapping[str, int]) -> tuple[Value | None, ...]:
        """Rebuild a graph or body: new values of its inputs -> new values of its outputs."""
        values = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            operands = [None if value is None else values[value] for value in node.inputs]
            values.update(zip(node.outputs, self.node(node, operands, scope, rounds), strict=True))
        return tuple(values[value] for value in graph.outputs)

    def node(self, node: Node, operands: Operands, scope: str, rounds: Mapping[str, int]) -> Sequence[Value | None]:
        """Rebuild a node by its streaming rule, as it is, or by its decomposition. Errors name the layer."""
        record = OPS[node.op]
        if node.op == "repeat":
            return self.repeat(node, operands, scope, rounds)
        named = self.named(node, rounds)
        scope = str(named.get("scope") or scope)
        if record.stream is not None and self.tokens.varies(node):
            try:
                return self.continued(node, operands, named, scope)
            except FlashirError as error:
                raise SettingError(error.problems, where=self.where(node, scope), hint=error.hint) from None
        if self.tokens.alone(node):
            return self.now.b.insert(node.op, operands, named, node.region)
        if record.decompose is None:
            raise SettingError(
                f"{node.op} mixes tokens and has no streaming rule, so the model cannot be decoded",
                where=self.where(node, scope),
                hint=self.hint(node.op),
            )
        present = [value for value in operands if value is not None]
        self._inside.append(node.op)
        results = self.graph(self.tokens.part(node), present, scope, rounds)
        self._inside.pop()
        return results

    def repeat(self, node: Node, operands: Operands, scope: str, rounds: Mapping[str, int]) -> Sequence[Value | None]:
        """Rebuild a loop over layers as one layer after the other."""
        body, times = node.region, node.attrs["times"]
        assert body is not None and isinstance(times, int)
        x, *invariants = operands
        for index in range(times):
            (x,) = self.graph(body, (x, *invariants), scope, {**rounds, round_symbol(len(rounds)): index})
        return [x]

    def hint(self, op: str) -> str:
        """How to mend a model with a primitive that cannot be decoded."""
        if op == "reshape":
            return 'flash can be decoded with summaries = "sum"'
        if op == "size" and divides_by_length(self.source.graph):
            fixed = option("length", 512)
            return f"the model divides by the sequence length: fix it with {fixed}, or use another qk_scale"
        return "the model divides by the sequence length: use another attention" if op == "size" else ""

    def where(self, node: Node, scope: str) -> str:
        """The layer, and the path of ops to a node, for errors."""
        path = " > ".join((*self._inside, node.op))
        return f"{scope}: {path}" if scope else path

    def prefix(self, node: Node, scope: str) -> str:
        """The prefix of the names of an op's states: the layer, and a number from the second such op on."""
        own = f"{scope}." if scope else f"{node.op}."
        self._count[own + node.op] += 1
        count = self._count[own + node.op]
        return own if count == 1 else f"{own}{count}."

    def named(self, node: Node, rounds: Mapping[str, int]) -> dict[str, Any]:
        """The attributes in the new graph: with its sizes, and with numbers for rounds."""
        attrs = {name: self.resized(node, value) for name, value in node.attrs.items()}
        names = ("scope", "name") if node.op == "param" else ("scope",)
        return attrs | {name: expand(attrs[name], rounds) for name in names if attrs.get(name)}

    def resized(self, node: Node, attr: Attr) -> Any:
        """The attribute with sizes of tokens replaced by those of the new graph."""
        if isinstance(attr, tuple):
            return tuple(self.resized(node, item) for item in attr)
        return self._sizes.get(attr, attr) if isinstance(attr, Dim) and self.tokens.counts(attr) else attr


class _Prefill(_Walk):
    """Keeps ops with a streaming rule as they are, and computes their states after the prompt."""

    def chunks(self, chunk: int) -> Size:
        return ceildiv(self.now.length, chunk)

    def continued(self, node: Node, operands: Operands, attrs: dict[str, Any], scope: str) -> Sequence[Value]:
        stream = OPS[node.op].stream
        assert stream is not None
        results = self.now.b.insert(node.op, operands, attrs)
        after: States = stream.after(self.now, *operands, **attrs)
        prefix = self.prefix(node, scope)
        self.states |= {prefix + name: value for name, value in after.items()}
        return results


class _Step(_Walk):
    """Replaces ops with a streaming rule by what they do with new tokens, which reads and updates their states."""

    def __init__(self, source: _Source, now: DecodeContext, before: Mapping[str, Value]) -> None:
        super().__init__(source, now)
        self.before = before

    def chunks(self, chunk: int) -> Size:
        return ceildiv(self.now.length + (chunk - 1), chunk)

    def continued(self, node: Node, operands: Operands, attrs: dict[str, Any], scope: str) -> Sequence[Value]:
        stream = OPS[node.op].stream
        assert stream is not None
        b = self.now.b
        prefix = self.prefix(node, scope)
        own = {name.removeprefix(prefix): value for name, value in self.before.items() if name.startswith(prefix)}
        extra = own_parameters(b, replace(node, attrs=attrs))
        results, after = stream.step(self.now, own, *operands, **attrs, **extra)
        self.states |= {prefix + name: value for name, value in after.items()}
        return [results] if isinstance(results, Value) else results
