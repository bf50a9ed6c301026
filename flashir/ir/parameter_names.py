"""Parameter names: every block that owns parameters gets a `scope`, such as `layers.{i}`.

A block in scope "layers" starts a new layer. A block in "layers/attn" becomes the part `attn` of the current layer, or
starts a new layer if the current one already has that part. In the body of a `repeat`, the layer number is a size in
the round: `layers.{i}`, or `layers.{4*i + 2}` for the third of four blocks in the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from flashir.errors import IRError
from flashir.ir.dims import Size, evaluate, substitute, symbol, symbols
from flashir.ir.graph import Graph, Node
from flashir.ir.op import OPS, ParamSpec
from flashir.ir.text.grammar import parse_size

ROUNDS = "ijklmn"
_INDEX = re.compile(r"\{([^}]*)\}")


@dataclass
class _Layers:
    """The layers so far, and the parts of the current one; None if the next block starts a layer."""

    first: Size = 0
    opened: int = 0
    parts: set[str] | None = None

    def place(self, part: str) -> Size:
        if self.parts is None or part in self.parts:
            self.opened += 1
            self.parts = set()
        self.parts.add(part)
        return self.first + (self.opened - 1)


def with_scopes(graph: Graph) -> Graph:
    """Give every block that owns parameters a `scope`, unless it has one."""
    return _named(graph, _Layers(), 0, {})


def expand(template: str, rounds: Mapping[str, int]) -> str:
    """`layers.{4*i + 2}` with i = 3 -> `layers.14`. Rounds without a number stay symbolic."""
    return "".join(part if isinstance(part, str) else _number(part, rounds) for part in parts(template))


def parameters(graph: Graph) -> dict[str, ParamSpec]:
    """Every parameter of a model by its full name, in the order of use.

    Raises IRError if two uses differ in shape, and the errors of `check_names`.
    """
    check_names(graph)
    specs: dict[str, ParamSpec] = {}
    for name, spec in _expanded(uses(with_scopes(graph)), {}):
        if specs.setdefault(name, spec).shape != spec.shape:
            raise IRError(f"the parameter {name} is used with shapes {specs[name].shape} and {spec.shape}")
    return specs


def owned(node: Node) -> dict[str, ParamSpec]:
    """The parameters of one node by full name, with symbolic rounds."""
    record = OPS[node.op]
    if record.params is None:
        return {}
    local = record.params(*(v.type if v else None for v in node.inputs), **node.attrs)
    return {full_name(node, name): spec for name, spec in local.items()}


def full_name(node: Node, local: str) -> str:
    """The full name of a block's parameter."""
    scope = node.attrs["scope"]
    return f"{scope}.{local}" if scope else local


def round_symbol(depth: int) -> str:
    """The symbol for the round of a `repeat` nested in `depth` others."""
    if depth >= len(ROUNDS):
        raise IRError(f"repeat is nested deeper than {len(ROUNDS)} levels")
    return ROUNDS[depth]


def check_names(graph: Graph, *, is_part: bool = False) -> None:
    """Raise IRError if a name uses a symbol that is not the round of an enclosing repeat.

    Args:
        graph: a model.
        is_part: the graph may be part of a model, such as the body of a repeat, so names may use any round.
    """
    if problems := list(dict.fromkeys(_name_problems(graph, frozenset(ROUNDS if is_part else ())))):
        raise IRError(problems, where=f"@{graph.name}", hint=f"the rounds of nested repeats are {', '.join(ROUNDS)}")


def _name_problems(graph: Graph, rounds: frozenset[str], depth: int = 0) -> Iterator[str]:
    for node in graph.nodes:
        for attr in ("scope", "name"):
            template = node.attrs.get(attr) if OPS[node.op].params is not None else None
            for part in parts(template) if isinstance(template, str) else ():
                if not isinstance(part, str) and (unknown := symbols(part) - rounds):
                    what = f"the {attr} {template!r} of {node.op}"
                    yield f"{what} uses {min(unknown)}, which is not the round of an enclosing repeat"
        if node.region is not None:
            inner = {round_symbol(depth)} if node.op == "repeat" else set()
            yield from _name_problems(node.region, rounds | inner, depth + (node.op == "repeat"))


@lru_cache(maxsize=4096)
def parts(template: str) -> tuple[str | Size, ...]:
    """`layers.{4*i + 2}` -> `layers.`, 4*i + 2. Raises IRError if the text in braces is not a size."""
    texts = _INDEX.split(template)
    try:
        return tuple(parse_size(text) if position % 2 else text for position, text in enumerate(texts))
    except IRError as error:
        raise IRError(f"the name {template!r} is malformed: {error.problems[0]}") from None


def _number(size: Size, rounds: Mapping[str, int]) -> str:
    try:
        return str(evaluate(size, rounds))
    except IRError:
        return f"{{{substitute(size, rounds)}}}"


@dataclass(frozen=True)
class Use:
    """A parameter by its template, such as `layers.{i}.norm.scale`."""

    template: str
    spec: ParamSpec


@dataclass(frozen=True)
class Loop:
    """The parameters that the body of a repeat uses, and how often it runs."""

    times: int
    uses: list[Use | Loop]


def uses(graph: Graph) -> list[Use | Loop]:
    """The parameters that a graph with scopes uses, in order, with symbolic rounds."""
    result: list[Use | Loop] = []
    for node in graph.nodes:
        result += (Use(name, spec) for name, spec in owned(node).items())
        if node.op == "repeat" and node.region is not None and (inside := uses(node.region)):
            times = node.attrs["times"]
            assert isinstance(times, int)
            result.append(Loop(times, inside))
    return result


def _expanded(uses: list[Use | Loop], rounds: Mapping[str, int]) -> Iterator[tuple[str, ParamSpec]]:
    """Each use by full name, round by round."""
    for use in uses:
        if isinstance(use, Use):
            yield expand(use.template, rounds), use.spec
        else:
            for index in range(use.times):
                yield from _expanded(use.uses, {**rounds, round_symbol(len(rounds)): index})


def _named(graph: Graph, layers: _Layers, depth: int, seen: dict[tuple[str, str], int]) -> Graph:
    nodes = []
    for node in graph.nodes:
        if node.op == "repeat" and node.region is not None:
            node = _named_repeat(node, layers, depth)
        elif OPS[node.op].params is not None and node.attrs["scope"] is None:
            node = replace(node, attrs={**node.attrs, "scope": _scope(node, layers, depth, seen)})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _named_repeat(node: Node, layers: _Layers, depth: int) -> Node:
    assert node.region is not None
    times = node.attrs["times"]
    assert isinstance(times, int)
    counted = _Layers()
    _named(node.region, counted, depth + 1, {})
    first = layers.first + layers.opened
    inner = _Layers(first + symbol(round_symbol(depth)) * counted.opened)
    layers.opened += counted.opened * times
    layers.parts = None
    return replace(node, region=_named(node.region, inner, depth + 1, {}))


def _scope(node: Node, layers: _Layers, depth: int, seen: dict[tuple[str, str], int]) -> str:
    home = OPS[node.op].home(node.attrs)
    if not home:
        return ""
    if depth and not home.startswith("layers"):
        home = f"layers/{home}"  # inside a repeat, every block is part of a layer
    if home.startswith("layers"):
        _, _, part = home.partition("/")
        number = layers.place(part)
        scope = f"layers.{number}" if isinstance(number, int) else f"layers.{{{number}}}"
        return f"{scope}.{part}" if part else scope
    count = seen[node.op, home] = seen.get((node.op, home), 0) + 1
    return home if count == 1 else f"{home}_{count}"
