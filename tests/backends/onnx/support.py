"""What the tests of the ONNX backend share: small models, parameters at which every term matters, sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import flashir
from flashir.ir import Graph
from flashir.ir.naming import parameters
from flashir.lowering import Lowering
from flashir_onnx import OnnxBackend
from flashir_onnx.emit import Emitted, emit
from flashir_onnx.session import Session

Array = npt.NDArray[Any]
SMALL: dict[str, Any] = {"d_model": 16, "depth": 2, "key_dim": 8, "vocab": 11}
DENSE = ("proj_in", "proj_out", "qkv", "out", "summary_k", "summary_v", "up", "gate", "down")
MATRICES = tuple(f"{name}.weight" for name in DENSE)


def flash(chunk: int = 4, cumsum: str = "scan", **settings: Any) -> Graph:
    """A small model of two flash layers."""
    return flashir.model("flash", **SMALL, chunk=chunk, cumsum=cumsum, **settings)


def unit_params(model: Graph, seed: int = 0) -> dict[str, Array]:
    """Every parameter from a standard normal, divided so that what it makes is of size one as well.

    At the paper's start (deviation 0.02) attention adds a millionth to the logits, and its errors hide. Here gamma,
    beta, biases, scales and `rel_bias.w` are of size one; matrices are divided by the root of what they sum over, and
    `rel_bias.a` and `b`, whose products are summed, by the fourth root.
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        power = 0.25 if name.endswith((".a", ".b")) else 0.5 if name.endswith(MATRICES) else 0
        return np.asarray(rng.standard_normal(shape) / (shape or (1,))[0] ** power, np.float32)

    return {name: draw(name, spec.shape) for name, spec in parameters(model).items()}


def tokens(model: Graph, batch: int, length: int, seed: int = 0) -> list[Array]:
    """Token ids, and segments of random lengths where the model takes them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, SMALL["vocab"], (batch, length))
    segments = np.sort(rng.integers(0, 5, (batch, length)), axis=1)
    return [ids, segments][: len(model.inputs)]


def lowered(graph: Graph) -> Graph:
    """Down to what the ONNX backend claims."""
    backend = OnnxBackend()
    return Lowering("onnx:cpu", backend.claims, backend.passes()).run(graph)


def emitted(graph: Graph, params: Mapping[str, Array]) -> Emitted:
    """A graph of any storey as an ONNX model."""
    return emit(lowered(graph), params)


def session(graph: Graph, params: Mapping[str, Array]) -> Session:
    """A graph of any storey in ONNX Runtime, on one thread."""
    return Session(emitted(graph, params), threads=1)


def error(got: Any, wanted: Any) -> float:
    """max |got - wanted| / max |wanted|; infinite where shapes differ or something wanted is not finite."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if got.shape != wanted.shape or not np.isfinite(wanted).all():
        return np.inf
    off, size = np.abs(got - wanted).max(initial=0), np.abs(wanted).max(initial=0)
    return float(off / size) if size else float(off)
