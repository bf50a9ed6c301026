"""What the tests of all backends share: small models, inputs, what is at hand, comparison with the interpreter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import flashir
from flashir import interpret
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Run
from flashir.backends.registry import backend, backend_of
from flashir.errors import TargetError
from flashir.ir import Graph
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error

Array = npt.NDArray[Any]
SMALL: dict[str, Any] = {"d_model": 16, "depth": 2, "key_dim": 8, "vocab": 11}
TOLERANCE = 1e-4
LAYER_SETTINGS: dict[str, dict[str, Any]] = {
    "FLASH": {"key_dim": 8, "chunk": 4, "cumsum": "matmul"},
    "GAU": {"key_dim": 8},
    "MixedChunkAttention": {"heads": 2, "chunk": 4, "cumsum": "matmul"},
    "Performer": {"heads": 2, "tile": 4, "cumsum": "matmul"},
    "Attention": {"heads": 2},
    "Combiner": {"heads": 2, "chunk": 4},
    "MLP": {},
    "GLU": {},
}
"""Small settings of every layer class of a framework."""


def flash(chunk: int = 4, cumsum: str = "scan", **settings: Any) -> Graph:
    """A small model of two flash layers."""
    return flashir.model("flash", **{**SMALL, **settings}, chunk=chunk, cumsum=cumsum)


def tokens(model: Graph, batch: int, length: int, seed: int = 0) -> list[Array]:
    """Token ids, and segments of random lengths where the model takes them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, SMALL["vocab"], (batch, length))
    segments = np.sort(rng.integers(0, 5, (batch, length)), axis=1)
    return [ids, segments][: len(model.inputs)]


def at_hand(name: str) -> bool:
    """Whether a backend can run something here."""
    try:
        return bool(backend(name).versions()) and "cpu" in backend(name).devices()
    except TargetError:
        return False


def session(target: str, graph: Graph, params: Mapping[str, Array]) -> Run:
    """A graph of any level on a target, numpy in, numpy out."""
    return backend_of(target).compile(Lowering.of(target).run(graph), params, target.partition(":")[2])


def check(target: str, model: Graph, lengths: Iterable[int], *, batch: int = 2, tolerance: float = TOLERANCE) -> None:
    """Logits of a model at those lengths against the interpreter's, with parameters at which every term matters."""
    params = unit(model)
    run = session(target, model, params)
    for length in lengths:
        ids = tokens(model, batch, length)
        logits = run(ids)
        assert logits.dtype == np.float32
        assert relative_error(logits, interpret(model, params, *ids)[0]) < tolerance, length
