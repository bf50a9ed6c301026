"""What the PyTorch backend claims, how it compiles, exports and loads. PyTorch is imported when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import ClassVar

from flashir.backend import Params, Run
from flashir.errors import TargetError
from flashir.ir import Graph, Node
from flashir.passes.base import Pass
from flashir_torch.claims import claims


def need_torch() -> None:
    """Raises TargetError where PyTorch is not installed."""
    if find_spec("torch") is None:
        raise TargetError("PyTorch is not installed", where="torch", mend="pip install 'flashir[torch]'")


@dataclass(frozen=True)
class TorchBackend:
    """Modules of PyTorch, for one kind of device."""

    name: ClassVar[str] = "torch"
    extra: ClassVar[str] = "torch"
    device: str = "cpu"

    def on(self, device: str) -> TorchBackend:
        """This backend for a device: `cpu`, `cuda`, or a card such as `h100`. See PerDevice."""
        return replace(self, device=device)

    def versions(self) -> dict[str, str]:
        """That of torch. Raises TargetError where it is not installed."""
        need_torch()
        return {"torch": version("torch")}

    def devices(self) -> tuple[str, ...]:
        """The devices that PyTorch finds on this machine. Raises TargetError where it is not installed."""
        need_torch()
        from flashir_torch.devices import device_names

        return device_names()

    def claims(self, node: Node) -> bool:
        """The primitives, and what PyTorch has whole. Without PyTorch too: a plan needs none."""
        return claims(node, self.device)

    def passes(self) -> tuple[Pass, ...]:
        """None so far."""
        return ()

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """The graph as a module under `inference_mode`. See Backend."""
        need_torch()
        from flashir_torch.session import compiled

        return compiled(graph, params, device)
