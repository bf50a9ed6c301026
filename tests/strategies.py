"""Random sizes, types and graphs for hypothesis: valid by construction, small, at every level."""

from __future__ import annotations

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

import flashir
from flashir.errors import FlashirError
from flashir.ir import AUTO, Attr, Builder, DType, Graph, Size, TensorType, Value, ceildiv, symbol
from flashir.ir.parameter_names import with_scopes
from flashir.transforms.lower import Lower, primitives
from flashir_zoo.systems import SYSTEMS

NAMES = ("B", "T", "G")
CUMSUMS = ("scan", "matmul", "native")
LONG = 512  # tokens from which a bias is that of Code 4
LONGEST_CHUNK = 16  # of those after which there is room for a third and a fourth


def bindings() -> st.SearchStrategy[dict[str, int]]:
    """A value for each symbol."""
    return st.fixed_dictionaries({name: st.integers(0, 20) for name in NAMES})


def sizes() -> st.SearchStrategy[Size]:
    """Polynomials in B, T and G, with divisions inside."""
    leaves: st.SearchStrategy[Any] = st.integers(-5, 5) | st.sampled_from(NAMES).map(symbol)
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(lambda a, b: a + b, inner, inner)
            | st.builds(lambda a, b: a * b, inner, inner)
            | st.builds(ceildiv, inner, st.integers(1, 7))
        ),
        max_leaves=5,
    )


def types() -> st.SearchStrategy[TensorType]:
    """Any element type, up to four axes, each known or a symbol."""
    axis: st.SearchStrategy[Any] = st.integers(0, 9) | st.sampled_from(NAMES).map(symbol)
    return st.builds(TensorType, st.sampled_from(DType), st.lists(axis, max_size=4).map(tuple))


def attributes() -> st.SearchStrategy[Attr]:
    """Whatever an attribute may be, lists of them too."""
    plain: st.SearchStrategy[Any] = (
        st.booleans()
        | st.none()
        | st.just(AUTO)
        | st.integers(-(2**40), 2**40)
        | st.floats(allow_nan=False)
        | st.text(st.characters(exclude_categories=["Cs"]))
        | st.sampled_from(DType)
        | sizes()
    )
    return st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


@st.composite
def blocks(
    draw: st.DrawFn, open_choices: bool = False, length: Size | None = None, causal: bool | None = None
) -> Graph:
    """Tokens -> logits through a random stack of gau and flash layers, some in repeats, some in repeats of repeats.

    With `causal` every layer is, and there are no segments.
    """
    b = Builder("stack")
    length = symbol("T") if length is None else length
    ids = b.input("ids", TensorType(DType.I32, (symbol("B"), length)))
    segments = [b.input("segment_ids", ids.type)] if not causal and draw(st.booleans()) else []
    d = draw(st.sampled_from([4, 6]))
    x = b.embed(ids, vocab=5, dim=d)
    if draw(st.booleans()):
        x = b.scaled_sin(x)
    settings = draw(st.lists(layers(open_choices, causal), min_size=1, max_size=3))

    def once(b: Builder, h: Value, *segments: Value) -> Value:
        for op, attrs in settings:
            (h,) = b.insert(op, (h, *segments) if op == "flash" else (h,), attrs)
        return h

    def twice(b: Builder, h: Value, *segments: Value) -> Value:
        return b.repeat(h, *segments, times=2, body=once)

    shape = draw(st.sampled_from(["plain", "repeat", "nested"]))
    if shape == "plain":
        x = once(b, x, *segments)
    else:
        x = b.repeat(x, *segments, times=draw(st.integers(0, 2)), body=once if shape == "repeat" else twice)
    norm = draw(st.sampled_from(["layer_norm", "scale_norm"]))
    return b.finish(b.unembed(b.insert(norm, (x,))[0], tied=draw(st.booleans())))


@st.composite
def layers(draw: st.DrawFn, open_choices: bool = False, causal: bool | None = None) -> tuple[str, dict[str, Any]]:
    """One layer: an op and its settings."""
    choose = [AUTO] if open_choices else []
    attrs: dict[str, Any] = {
        "key_dim": draw(st.sampled_from([2, 4])),
        "expansion": draw(st.sampled_from([1, 1.5, 2])),
        "causal": draw(st.booleans()) if causal is None else causal,
        "norm": draw(st.sampled_from(["layer_norm", "scale_norm"])),
        "qk_scale": draw(st.sampled_from(["length", "none", "max_len", "sqrt_key"])),
        "max_len": draw(st.sampled_from([16, 600])),
    }
    if draw(st.booleans()):
        return "gau", attrs
    parts = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    return "flash", {
        **attrs,
        "chunk": draw(st.sampled_from([1, 2, 3, 4, 6, *choose])),
        "cumsum": draw(st.sampled_from([*CUMSUMS, *choose])),
        "lin_norm": draw(st.sampled_from(["none", "chunk", "chunk_mean"])),
        "use_local": parts[0],
        "use_global": parts[1],
    }


VALUES: dict[str, list[Any]] = {
    "expansion": [1, 1.5, 2],
    "key_dim": [4, 8],
    "heads": [1, 2],
    "chunk": [1, 2, 3, 4, 5, 8, 16, LONG],
    "tile": [1, 2, 3, 5, 64],
    "max_len": [3 * LONGEST_CHUNK + 2, LONG + 1],
    "rope_dims": [None, 2],
    "kernel_eps": [1e-3, 0.1],
    "norm_eps": [1e-5, 0.1],
    "expanded": [None, 10],
    "cumsum": list(CUMSUMS),
}
"""What is drawn for a setting of the zoo that is neither a flag nor a choice."""
SEEDS = st.integers(0, 2**32)


@st.composite
def zoo_models(draw: st.DrawFn, causal: bool | None = None) -> Graph:
    """A small system of the zoo, every setting that its blocks take drawn; causal ones have no segments."""
    name = draw(st.sampled_from([*sorted(SYSTEMS), "flash", "flash", "flash-quad"]))
    own: dict[str, Any] = {"d_model": draw(st.sampled_from([8, 12])), "depth": draw(st.integers(0, 2)), "vocab": 11}
    for setting, spec in SYSTEMS[name].specs().items():
        if setting == "head_order":
            own[setting] = " ".join(draw(st.permutations(str(spec.default).split())))
        else:
            flag = [False, True] if spec.kind == (bool,) else None
            own[setting] = draw(st.sampled_from(VALUES.get(setting) or flag or list(spec.choices)))
    if name == "flash":
        own["use_global"] |= not own["use_local"]
        own["overlap"] &= own["use_local"]
        own["summaries"] = own["summaries"] if own["use_global"] else "sum"
    if SYSTEMS[name].apart:
        kinds = [False, "token", *(["chunk"] if SYSTEMS[name].by_chunk else [])]
        own["segments"] = not causal and draw(st.sampled_from(kinds))
        own["mask"] = not causal and draw(st.booleans())
    own["causal"] = own["causal"] if causal is None else causal
    try:
        return flashir.model(name, **own, tied=draw(st.booleans()))
    except FlashirError:
        assume(False)
        raise


@st.composite
def models(draw: st.DrawFn, causal: bool | None = None) -> tuple[Graph, int, int, int]:
    """A model, every choice made; rows, tokens, and a seed for what else is random.

    A system of the zoo three times of four, else a stack of blocks. Lengths are those at which chunks begin and end.
    """
    own = zoo_models(causal)
    graph = draw(st.one_of(own, own, own, blocks(causal=causal)))
    steps = {node.attrs.get(name) for node in graph.walk() for name in ("chunk", "tile")}
    n = draw(st.sampled_from(sorted(each for each in steps if isinstance(each, int)) or [5]))
    several = [3 * n + 2, 2 * n] if n <= LONGEST_CHUNK else []
    longest = min([int(node.attrs["max_len"]) for node in graph.walk() if node.op == "gau"], default=2 * LONG)
    lengths = [each for each in dict.fromkeys((n + 1, *several, n, n - 1, 1, 0)) if each <= longest]
    return graph, draw(st.sampled_from([2, 1, 3, 2, 1, 3, 2, 0])), draw(st.sampled_from(lengths)), draw(SEEDS)


@st.composite
def primitive_graphs(draw: st.DrawFn) -> Graph:
    """A random graph of primitives and small composites over f32[B, 4]; some of its nodes are dead or alike."""
    b = Builder("random")
    values = [b.input("x", "f32[B, 4]"), b.input("y", "f32[B, 4]")]
    for _ in range(draw(st.integers(0, 8))):
        x, y = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        values.append(draw(st.sampled_from(STEPS))(b, x, y))
    wanted = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    return b.finish(*wanted)


def _looped(b: Builder, x: Value, y: Value) -> Value:
    """A scan over the last axis that adds up a product; its body computes something that no step changes."""
    body = b.subgraph()
    state, item = body.input("state", "f32[B]"), body.input("item", "f32[B]")
    loop = body.finish(body.add(state, body.mul(item, body.exp(body.constant(0.0)))), state)
    start = b.reduce_sum(y, axes=(1,))
    return b.results("scan", start, x, carries=1, axis=1, body=loop)[1]


def _repeated(b: Builder, x: Value, y: Value) -> Value:
    """Rounds without parameters, so that the table which every round computes can leave the loop."""

    def layer(b: Builder, h: Value, c: Value) -> Value:
        table = b.sin(b.mul(b.iota(length=4, dtype=DType.F32), 0.5))
        return b.add(b.tanh(h), b.mul(b.relu(c), table))

    return b.repeat(x, y, times=2, body=layer)


def _halves(b: Builder, x: Value, y: Value) -> Value:
    left, right = b.results("split", x, axis=1, sizes=(1, 3))
    return b.concat(right, left, axis=-1)


STEPS = (
    lambda b, x, y: b.add(x, y),
    lambda b, x, y: b.add(x, 0.0),
    lambda b, x, y: b.mul(1.0, x),
    lambda b, x, y: b.sub(b.mul(x, b.add(b.constant(2.0), 3.0)), y),
    lambda b, x, y: b.select(b.less(x, y), x, y),
    lambda b, x, y: b.relu2(b.tanh(x)),
    lambda b, x, y: b.silu(x),
    lambda b, x, y: b.divide_no_nan(x, y),
    lambda b, x, y: b.cast(b.cast(x, dtype=DType.F64), dtype=DType.F32),
    lambda b, x, y: b.reshape(b.reshape(x, shape=(4 * symbol("B"),)), shape=(symbol("B"), 4)),
    lambda b, x, y: b.transpose(b.transpose(x, perm=(1, 0)), perm=(1, 0)),
    lambda b, x, y: b.transpose(x, perm=(0, 1)),
    lambda b, x, y: b.slice(b.pad(x, axis=1, after=2), axis=1, stop=4),
    lambda b, x, y: b.slice(b.pad(x, axis=1, before=1, value=2.0), axis=1, start=0, stop=4),
    lambda b, x, y: b.broadcast(x, shape=(symbol("B"), 4)),
    lambda b, x, y: b.mul(x, b.size(value=symbol("B"), dtype=DType.F32)),
    lambda b, x, y: b.mul(x, b.reciprocal(b.size(value=3, dtype=DType.F32))),
    lambda b, x, y: b.matmul(x, b.matmul(y, x, transpose_x=True)),
    lambda b, x, y: b.einsum(x, y, equation="bi,bj->bj"),
    lambda b, x, y: b.cumsum(b.reverse(x, axis=0), axis=0, exclusive=True),
    lambda b, x, y: b.concat(x, axis=0),
    _halves,
    _looped,
    _repeated,
)


def every_storey() -> st.SearchStrategy[Graph]:
    """Blocks, what they are made of one step down, attention, primitives, and random graphs."""
    attention = ("quadratic_attention", "chunked_recurrence", "linear_attention", "rope", "dense")
    named = blocks().map(with_scopes)
    return (
        blocks(open_choices=True)
        | named
        | named.map(Lower("attention", lambda node: node.op in attention or primitives(node)).apply)
        | named.map(Lower().apply)
        | primitive_graphs()
    )
