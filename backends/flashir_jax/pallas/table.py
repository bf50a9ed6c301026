"""The table of kernels: op -> the kernel that a TPU runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from jax import lax

from flashir.backends.lowering import Lowering
from flashir.ir import Builder, Graph, Node
from flashir_jax.claims import claims
from flashir_jax.pallas.mixed import mixed_chunk_attention

Kernel = Callable[..., Any]


def _mixed(node: Node) -> Kernel:
    attrs = {name: node.attrs[name] for name in ("chunk", "causal", "lin_norm")}

    def kernel(v: Any, quad_q: Any, quad_k: Any, bias: Any, lin_q: Any, lin_k: Any) -> Any:
        return mixed_chunk_attention(quad_q, quad_k, lin_q, lin_k, v, bias, **attrs)  # type: ignore[arg-type]

    return kernel


TABLE: dict[str, Callable[[Node], Kernel]] = {"chunked_recurrence": _mixed}


def on_tpu(node: Node, otherwise: Callable[..., Any], *operands: Any) -> Any:
    """The kernel if the program is compiled for a TPU, otherwise `otherwise`."""
    return lax.platform_dependent(*operands, tpu=TABLE[node.op](node), default=otherwise)


@cache
def parts(node: Node) -> Graph:
    """The lowered op, for devices without a kernel."""
    b = Builder(node.op)
    operands = [b.input(f"x{i}", value.type) for i, value in enumerate(node.operands)]
    graph = b.finish(*b.insert(node.op, operands, node.attrs))
    return Lowering("jax:cpu", partial(claims, device="cpu")).run(graph)
