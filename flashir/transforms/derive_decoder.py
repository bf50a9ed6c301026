"""to-decode: a causal model as two graphs with explicit state, one for prompts and one for what comes after.

Claim or descend, once more. An op that says how it is continued (`OpDef.stream`) is; one that acts on each token alone
stays as it is, on fewer tokens; any other is replaced by its decomposition, and a primitive that is neither is an error
that names it. A `repeat` is unrolled, for each layer has states of its own.
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
from flashir.ops.decode.context import DecodeContext, take_rows
from flashir.transforms.lower import own_parameters
from flashir.transforms.one_document import OneDocument
from flashir.transforms.pad_tokens import length_to_pad
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite
from flashir.transforms.token_analysis import Tokens

POSITION = "position"
Operands = Sequence[Value | None]


def to_prefill(
    model: Graph, *, tokens: int = 1, max_len: int | None = None, length: int | None = None
) -> tuple[Graph, dict[str, TensorType]]:
    """`model(ids [b, t])` -> `prefill(ids [b, t], lengths [b])` -> logits [b, 1, v] of the last tokens, and the states

    Rows are padded on the right. A prompt is one document: what tells documents apart, or padding, is left out.
    The states come in the order of their names and types, which are returned as well.

    Args:
        model: a causal model, its chunk chosen.
        tokens: how many a step takes at most.
        max_len: how many tokens caches hold.
        length: of the whole sequence, where the model divides by it.

    Raises:
        SettingError: the model is not causal, or cannot be continued token by token; the op is named, and why.
    """
    model = OneDocument().apply(model)
    source = _Source.of(model, length)
    b = Builder(model.name)
    ids = b.input("ids", source.ids)
    lengths = b.input("lengths", TensorType(DType.I32, source.ids.shape[:1]))
    padded = source.padded(model)
    if padded != source.time:
        ids = b.pad(ids, axis=1, after=padded - source.time)
    walk = _Prefill(source, DecodeContext(b, lengths, padded, tokens, max_len))
    body, last = source.cut()
    (x,) = walk.graph(body, (ids,), "", {})
    assert x is not None
    index = b.sub(b.reshape(lengths, shape=(*lengths.type.shape, 1)), 1)
    picked = take_rows(b, x, index)
    (logits,) = _Prefill(source, replace(walk.now, length=1)).graph(last, (picked,), "", {})
    assert logits is not None
    states = {POSITION: lengths, **walk.states}
    return b.finish(logits, *states.values()), {name: value.type for name, value in states.items()}


def to_step(
    model: Graph,
    states: Mapping[str, TensorType],
    *,
    tokens: int = 1,
    max_len: int | None = None,
    length: int | None = None,
) -> Graph:
    """`model(ids [b, t])` -> `step(ids [b, 1], *states)` -> logits [b, 1, v] of the new token, and the states after

    Where a step takes several `tokens` it is `step(ids [b, t], ..)` for any t up to them.

    Args:
        model, tokens, max_len, length: as in `to_prefill`.
        states: as it returned them.
    """
    source = _Source.of(OneDocument().apply(model), length)
    time = 1 if tokens == 1 else source.time
    b = Builder(model.name)
    ids = b.input("ids", source.ids.with_shape((source.ids.shape[0], time)))
    given = {name: b.input(name, type_) for name, type_ in states.items()}
    seen = given[POSITION]
    walk = _Step(source, DecodeContext(b, seen, time, tokens, max_len), given)
    (logits,) = walk.graph(source.graph, (ids,), "", {})
    assert logits is not None
    after = {**walk.states, POSITION: b.add(seen, b.size(value=time))}
    return b.finish(logits, *(after[name] for name in states))


@dataclass(frozen=True)
class ToPrefill(Pass):
    """`model(ids)` -> `prefill(ids, lengths)`, the logits of the last tokens and the states; see `to_prefill`."""

    name = "to-prefill"
    optional = False
    tokens: int = 1
    max_len: int | None = None
    length: int | None = None

    def apply(self, graph: Graph) -> Graph:
        """The graph for prompts. Raises SettingError where a model cannot be continued."""
        return to_prefill(graph, tokens=self.tokens, max_len=self.max_len, length=self.length)[0]


@dataclass(frozen=True)
class ToStep(Pass):
    """`model(ids)` -> `step(ids, *states)`, the logits and the states after; see `to_step`."""

    name = "to-step"
    optional = False
    tokens: int = 1
    max_len: int | None = None
    length: int | None = None

    def apply(self, graph: Graph) -> Graph:
        """The graph for what comes after prompts. Raises SettingError where a model cannot be continued."""
        _, states = to_prefill(graph, tokens=self.tokens, max_len=self.max_len, length=self.length)
        return to_step(graph, states, tokens=self.tokens, max_len=self.max_len, length=self.length)


@dataclass(frozen=True)
class _Source:
    """A model that can be walked: one input of tokens, its length a multiple of every chunk.

    Args:
        graph: the model with lengths of `whole`, and names for its parameters.
        ids: the type of its input as it was.
        time: the length as it was, a symbol.
        whole: the length in `graph`.
        tokens: what its ops do to tokens.
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
        graph = with_scopes(rewrite(model, _Divide(length), sizes={str(time): whole}))
        return _Source(graph, ids, time, whole, Tokens(str(time)))

    def padded(self, model: Graph) -> Size:
        """The length of a prompt in whole chunks, where the model can be padded at once; else as it is."""
        if length_to_pad(model) is None:
            return self.time
        chunks = [node.attrs["chunk"] for node in model.walk() if "chunk" in node.attrs]
        multiple = lcm(*(chunk for chunk in chunks if isinstance(chunk, int)))
        return ceildiv(self.time, multiple) * multiple

    def cut(self) -> tuple[Graph, Graph]:
        """The model up to its last node, and that node, which acts on each token alone: it is for the last ones."""
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


def of_length(model: Graph, length: int) -> Graph:
    """The model for tokens that begin a sequence of a length: what divides by the length divides by that."""
    return rewrite(model, _Divide(length))


@dataclass(frozen=True)
class _Divide:
    """Blocks that divide by the length are told which it is."""

    length: int | None

    def __call__(self, b: Builder, node: Node) -> Sequence[Value] | None:
        if self.length is None or node.attrs.get("valid", 0) is not None:
            return None
        return b.insert(node.op, node.inputs, {**node.attrs, "valid": self.length}, node.region)


def _checked(model: Graph) -> TensorType:
    """The type of the one input, ids [b, t]. Raises SettingError with all that keeps a model from being continued."""
    problems = []
    wanted = [v for v in model.inputs if v.type.rank == 2 and v.type.dtype in (DType.I32, DType.I64)]
    if len(model.inputs) != 1 or len(wanted) != 1 or symbol_of(wanted[0].type.shape[1]) is None:
        shown = ", ".join(f"{value.name}: {value.type}" for value in model.inputs)
        problems.append(f"it takes ({shown}); only tokens alone, [B, T] of any length T, can be continued")
    if len(model.outputs) != 1:
        problems.append(f"it has {len(model.outputs)} results; only one can be continued")
    elif model.outputs[0].type.rank < 3:
        problems.append(f"its result is {model.outputs[0].type}; only what has a row for each token can be continued")
    for op in dict.fromkeys(node.op for node in model.walk() if node.attrs.get("causal") is False):
        problems.append(f"{op} is not causal: a token sees those after it")
    for op in dict.fromkeys(node.op for node in model.walk() if node.attrs.get("chunk") is AUTO):
        problems.append(f"the chunk of {op} is part of the model, and still auto")
    if problems:
        raise SettingError(problems, where=f"decoding @{model.name}")
    return wanted[0].type


class _Walk(ABC):
    """Rebuilds a model in another graph, for the tokens of a moment, and collects the states."""

    def __init__(self, source: _Source, now: DecodeContext) -> None:
        self.source, self.tokens, self.now = source, source.tokens, now
        self.states: dict[str, Value] = {}
        self._inside: list[str] = []
        self._met: Counter[str] = Counter()
        chunks = {node.attrs["chunk"] for node in source.graph.walk() if "chunk" in node.attrs}
        self._sizes = {source.whole: now.length}
        self._sizes |= {ceildiv(source.whole, n): self.chunks(n) for n in chunks if isinstance(n, int) and n > 1}

    @abstractmethod
    def chunks(self, chunk: int) -> Size:
        """How many chunks the tokens may touch."""

    @abstractmethod
    def continued(self, node: Node, operands: Operands, attrs: dict[str, Any], scope: str) -> Sequence[Value]:
        """The results of an op that has a stream."""

    def graph(self, graph: Graph, inputs: Operands, scope: str, rounds: Mapping[str, int]) -> tuple[Value | None, ...]:
        """What stands for the outputs of a graph, given what stands for its inputs."""
        values = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            operands = [None if value is None else values[value] for value in node.inputs]
            values.update(zip(node.outputs, self.node(node, operands, scope, rounds), strict=True))
        return tuple(values[value] for value in graph.outputs)

    def node(self, node: Node, operands: Operands, scope: str, rounds: Mapping[str, int]) -> Sequence[Value | None]:
        """Continued, as it is, or by what it is made of; of an error it is said where."""
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
                f"{node.op} takes more of a sequence than one token, and cannot be continued",
                where=self.where(node, scope),
                hint=_mend(node.op),
            )
        present = [value for value in operands if value is not None]
        self._inside.append(node.op)
        made = self.graph(self.tokens.part(node), present, scope, rounds)
        self._inside.pop()
        return made

    def repeat(self, node: Node, operands: Operands, scope: str, rounds: Mapping[str, int]) -> Sequence[Value | None]:
        """One layer after the other."""
        body, times = node.region, node.attrs["times"]
        assert body is not None and isinstance(times, int)
        x, *invariants = operands
        for index in range(times):
            (x,) = self.graph(body, (x, *invariants), scope, {**rounds, round_symbol(len(rounds)): index})
        return [x]

    def where(self, node: Node, scope: str) -> str:
        """The layer, and the ops that an op stands in."""
        path = " > ".join((*self._inside, node.op))
        return f"{scope}: {path}" if scope else path

    def prefix(self, node: Node, scope: str) -> str:
        """What the names of an op's states begin with: the layer, and a number where the same op was there before."""
        own = f"{scope}." if scope else f"{node.op}."
        self._met[own + node.op] += 1
        count = self._met[own + node.op]
        return own if count == 1 else f"{own}{count}."

    def named(self, node: Node, rounds: Mapping[str, int]) -> dict[str, Any]:
        """The attributes in the graph in the making: sizes are those there, rounds have numbers."""
        attrs = {name: self.resized(node, value) for name, value in node.attrs.items()}
        names = ("scope", "name") if node.op == "param" else ("scope",)
        return attrs | {name: expand(attrs[name], rounds) for name in names if attrs.get(name)}

    def resized(self, node: Node, attr: Attr) -> Any:
        """A size in that graph, where the attribute is one."""
        if isinstance(attr, tuple):
            return tuple(self.resized(node, item) for item in attr)
        return self._sizes.get(attr, attr) if isinstance(attr, Dim) and self.tokens.counts(attr) else attr


class _Prefill(_Walk):
    """Ops that have a stream stay whole; what they leave behind is a state."""

    def chunks(self, chunk: int) -> Size:
        return ceildiv(self.now.length, chunk)

    def continued(self, node: Node, operands: Operands, attrs: dict[str, Any], scope: str) -> Sequence[Value]:
        stream = OPS[node.op].stream
        assert stream is not None
        made = self.now.b.insert(node.op, operands, attrs)
        left: States = stream.after(self.now, *operands, **attrs)
        prefix = self.prefix(node, scope)
        self.states |= {prefix + name: value for name, value in left.items()}
        return made


class _Step(_Walk):
    """Ops that have a stream use their states, and renew them."""

    def __init__(self, source: _Source, now: DecodeContext, given: Mapping[str, Value]) -> None:
        super().__init__(source, now)
        self.given = given

    def chunks(self, chunk: int) -> Size:
        return ceildiv(self.now.length + (chunk - 1), chunk)

    def continued(self, node: Node, operands: Operands, attrs: dict[str, Any], scope: str) -> Sequence[Value]:
        stream = OPS[node.op].stream
        assert stream is not None
        b = self.now.b
        prefix = self.prefix(node, scope)
        own = {name.removeprefix(prefix): value for name, value in self.given.items() if name.startswith(prefix)}
        extra = own_parameters(b, replace(node, attrs=attrs))
        made, after = stream.step(self.now, own, *operands, **attrs, **extra)
        self.states |= {prefix + name: value for name, value in after.items()}
        return [made] if isinstance(made, Value) else made


def _mend(op: str) -> str:
    """What to do where an op cannot be continued."""
    if op == "reshape":
        return 'in flash, states of chunks that are summed up can (summaries = "sum")'
    if op == "size":
        another = "what divides by the length of the sequence needs another qk_scale or attention"
        return f"{another}; for a gau, {option('length', 512)} says which length that is"
    return ""
