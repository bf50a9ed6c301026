"""What the JAX backend claims, how it compiles, exports and loads. JAX is imported when it is needed."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

from flashir.backend import Params, Run
from flashir.errors import TargetError
from flashir.ir import Graph, Node
from flashir.ops import OPS
from flashir.passes.base import Pass

COMPOSITES = frozenset(("silu", "sinusoid"))
"""What is done whole beside the primitives; all else XLA fuses as well from its parts."""


def need_jax() -> None:
    """Raises TargetError where JAX is not installed."""
    if find_spec("jax") is None:
        raise TargetError("JAX is not installed", where="jax", mend="pip install 'flashir[jax]'")


class JaxBackend:
    """Pure functions, compiled by XLA."""

    name = "jax"
    extra = "jax"

    def versions(self) -> dict[str, str]:
        """Those of jax and jaxlib. Raises TargetError where they are not installed."""
        need_jax()
        return {name: version(name) for name in ("jax", "jaxlib")}

    def devices(self) -> tuple[str, ...]:
        """The devices that JAX finds on this machine. Raises TargetError where it is not installed."""
        need_jax()
        from flashir_jax.session import device_names

        return device_names()

    def claims(self, node: Node) -> bool:
        """Every primitive, and a few composites. Without JAX too: a plan needs no JAX."""
        return OPS[node.op].is_primitive or node.op in COMPOSITES

    def passes(self) -> tuple[Pass, ...]:
        """None: XLA does the rest."""
        return ()

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """The graph under jit, compiled once a shape. See Backend."""
        need_jax()
        from flashir_jax.session import compiled

        return compiled(graph, params, device)
