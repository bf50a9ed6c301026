"""Random models: stacks of every block with every setting, side results, open sizes, lower levels, narrow types.

Models are valid by construction, or refused while they are built and drawn again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flashir
from flashir.backends.lowering import Lowering
from flashir.errors import FlashirError
from flashir.ir import AUTO, Builder, DType, Graph, TensorType, Value, symbol
from flashir.ir.parameter_names import with_scopes
from flashir.ops import OPS
from flashir.transforms.lower import Lower, primitives
from tests.campaign.drawing import example
from tests.strategies import VALUES, models, primitive_graphs

BLOCKS = ("flash", "flash", "gau", "mhsa", "mlp", "glu", "performer", "combiner", "mc_mhsa", "token_shift")
"""The ops of layers. flash is listed twice, because it matters most."""
SEGMENTED = ("flash",)
VOCAB = 11
OWN: dict[str, list[Any]] = {
    "eps": [1e-5, 1e-3, 0.1],
    "heads": [1, 2, 4],
    "key_dim": [2, 4, 8],
    "chunk": [1, 2, 3, 4, 5, 8, 16],
    "tile": [1, 2, 3, 5, 64],
    "max_len": [64, 90, 520],
    "scope": [None],
    "valid": [None],
}
ATTENTION = ("quadratic_attention", "chunked_recurrence", "linear_attention", "rope", "dense", "softmax_attention")


@dataclass(frozen=True)
class Drawn:
    """A model with the sizes to run it on.

    Args:
        graph: the model at any level.
        batch, length: rows, and tokens per row.
        seed: the seed of parameters and inputs.
        dtype: the compute dtype.
    """

    graph: Graph
    batch: int
    length: int
    seed: int
    dtype: DType = DType.F32


def drawn(random: random.Random, *, causal: bool | None = None, narrow: bool = True, levels: bool = True) -> Drawn:
    """A random model: of the zoo, of the strategies of the tests, or a stack of random layers.

    Args:
        random: the source of random numbers.
        causal: whether the model must be causal, or must not be; None for either.
        narrow: whether the compute dtype may be float16 or bfloat16.
        levels: whether the model may be lowered, or not be a stack of layers.
    """
    way = random.random()
    if way < 0.35:
        graph, batch, length, seed = example(models(causal=causal), random)
        dtype = DType.F32
    elif way < 0.45 and levels and causal is None:
        return Drawn(example(primitive_graphs(), random), random.randrange(4), 1, random.getrandbits(32))
    else:
        dtype = random.choice([DType.F32] * 6 + [DType.F16, DType.BF16]) if narrow else DType.F32
        graph = composed(random, causal, dtype)
        batch, length, seed = random.choice([1, 2, 2, 3, 0]), a_length(graph, random), random.getrandbits(32)
    if levels and random.random() < 0.35 and not is_open(graph):
        graph = lowered(graph, random)
    return Drawn(graph, batch, length, seed, dtype)


def is_open(graph: Graph) -> bool:
    """Whether the model has open choices."""
    return any(value is AUTO for node in graph.walk() for value in node.attrs.values())


def a_length(graph: Graph, random: random.Random) -> int:
    """A length near the border of a chunk, or any length."""
    chunks = [n for node in graph.walk() for name in ("chunk", "tile") if isinstance(n := node.attrs.get(name), int)]
    n = random.choice(chunks or [5])
    near = [n - 1, n, n + 1, 2 * n, 3 * n + 2, random.randrange(40), 1, 0]
    return random.choice([each for each in near if 0 <= each <= 60])


def lowered(graph: Graph, random: random.Random) -> Graph:
    """The model at a lower level, or read back from its text."""
    named = with_scopes(graph)
    how: list[Callable[[Graph], Graph]] = [
        Lower("attention", lambda node: node.op in ATTENTION or primitives(node)).apply,
        Lower().apply,
        Lowering("primitives").run,
        lambda graph: graph,
    ]
    return flashir.loads(flashir.dumps(random.choice(how)(named)))


def composed(random: random.Random, causal: bool | None, dtype: DType) -> Graph:
    """A stack of layers. Invalid stacks are drawn again."""
    for _ in range(100):
        try:
            return _Stack(random, causal, dtype).graph()
        except FlashirError:
            continue
    raise AssertionError("a hundred stacks in a row were refused")


class _Stack:
    """A stack while it is drawn."""

    def __init__(self, random: random.Random, causal: bool | None, dtype: DType) -> None:
        self.random, self.causal, self.dtype = random, causal, dtype
        self.width = random.choice([4, 8, 12])
        self.segments = not causal and random.random() < 0.25
        self.open = random.random() < 0.15

    def graph(self) -> Graph:
        random = self.random
        b = Builder(random.choice(["stack", "a.b-c+d", "m"]))
        whole = random.choice([DType.I32, DType.I64])
        ids = b.input(random.choice(["ids", "x", "tokens.0"]), TensorType(whole, (symbol("B"), symbol("T"))))
        segments = [b.input("segment_ids", ids.type)] if self.segments else []
        x = b.embed(ids, vocab=VOCAB, dim=self.width, dtype=self.dtype)
        side: list[Value] = []
        for _ in range(random.randint(0, 2)):
            x = self.position(b, x)
        for _ in range(random.randint(1, 3)):
            x = self.part(b, x, segments)
            if random.random() < 0.2:
                side.append(x)
        x = b.insert(random.choice(["layer_norm", "scale_norm"]), (x,), self.attrs("layer_norm"))[0]
        heads = [b.unembed(x, tied=random.random() < 0.5) if random.random() < 0.9 else x]
        if random.random() < 0.15 and side:
            heads += side[:2]
        return b.finish(*heads)

    def part(self, b: Builder, x: Value, segments: list[Value]) -> Value:
        """A layer, a loop of layers, nested loops, a residual around them, or an op with open sizes."""
        random = self.random
        match random.randrange(8):
            case 0 | 1:
                layers = [self.layer() for _ in range(random.randint(1, 2))]
                return b.repeat(x, *segments, times=random.randint(0, 3), body=_all(layers))
            case 2:
                layers = [self.layer()]

                def inner(b: Builder, h: Value, *more: Value) -> Value:
                    return b.repeat(h, *more, times=2, body=_all(layers))

                return b.repeat(x, *segments, times=random.randint(1, 2), body=inner)
            case 3:
                return b.add(x, b.mul(self.layer()(b, x, *segments), 0.5))
            case 4:
                return self.reshaped(b, x)
            case _:
                return self.layer()(b, x, *segments)

    def layer(self) -> Callable[..., Value]:
        """A block with random settings. If they are invalid, the whole stack is drawn again."""
        op = self.random.choice(BLOCKS)
        attrs = self.attrs(op)
        takes = op in SEGMENTED

        def insert(b: Builder, h: Value, *segments: Value) -> Value:
            return b.insert(op, (h, *segments) if takes else (h,), attrs)[0]

        return insert

    def attrs(self, op: str) -> dict[str, Any]:
        """Random values of some attributes of an op; the others keep their defaults."""
        random = self.random
        made: dict[str, Any] = {}
        for name, spec in OPS[op].attrs.items():
            if name == "causal" and self.causal is not None:
                made[name] = self.causal
                continue
            values = (
                OWN.get(name) or list(spec.choices) or ([False, True] if spec.kind == (bool,) else VALUES.get(name))
            )
            must = spec.choice is not None or name in ("heads", "key_dim", "max_len")
            if values is not None and (must or random.random() < 0.5):
                made[name] = AUTO if self.open and spec.choice is not None else random.choice(values)
        made.pop("head_order", None)
        return made

    def position(self, b: Builder, x: Value) -> Value:
        op = self.random.choice(["scaled_sin", "learned_position"])
        return b.insert(op, (x,), {"max_len": 90} if op == "learned_position" else {})[0]

    def reshaped(self, b: Builder, x: Value) -> Value:
        """A causal op whose attributes have open sizes."""
        random, width = self.random, self.width
        batch, length, _ = x.type.shape
        match random.randrange(4):
            case 0:
                heads = b.reshape(x, shape=(batch, length, 2, width // 2))
                turned = b.transpose(heads, perm=(0, 2, 1, 3))
                return b.reshape(b.transpose(b.silu(turned), perm=(0, 2, 1, 3)), shape=(batch, length, width))
            case 1:
                places = b.reshape(b.iota(length=length, dtype=x.type.dtype), shape=(length, 1))
                return b.add(x, b.sin(b.mul(places, 0.1)))
            case 2:
                padded = b.pad(x, axis=1, before=1, after=2)
                return b.mul(b.slice(padded, axis=1, start=0, stop=length), 0.7)
            case _:
                return b.reshape(b.tanh(b.reshape(x, shape=(batch * length, width))), shape=(batch, length, width))


def _all(layers: list[Callable[..., Value]]) -> Callable[..., Value]:
    def body(b: Builder, h: Value, *segments: Value) -> Value:
        for layer in layers:
            h = layer(b, h, *segments)
        return h

    return body
