"""What the ONNX backend claims, and how it compiles."""

from __future__ import annotations

from importlib.metadata import version

from flashir.backend import Params, Run
from flashir.ir import Graph, Node
from flashir.passes.base import Pass
from flashir.passes.split_projections import SplitProjections


class OnnxBackend:
    """ONNX models, run by ONNX Runtime."""

    name = "onnx"
    extra = ""

    def versions(self) -> dict[str, str]:
        """Those of onnx and onnxruntime."""
        return {name: version(name) for name in ("onnx", "onnxruntime")}

    def devices(self) -> tuple[str, ...]:
        """The devices that ONNX Runtime finds on this machine."""
        import onnxruntime as ort

        from flashir_onnx.session import PROVIDERS

        return tuple(name for name, provider in PROVIDERS.items() if provider in ort.get_available_providers())

    def claims(self, node: Node) -> bool:
        """Every op of the table."""
        from flashir_onnx.emit import STRUCTURED
        from flashir_onnx.emitters import EMITTERS

        return node.op in EMITTERS or node.op in STRUCTURED

    def passes(self) -> tuple[Pass, ...]:
        """ONNX Runtime multiplies narrow matrices as fast as wide ones, and copies what is split."""
        return (SplitProjections(),)

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """The graph as a session."""
        from flashir_onnx.emit import emit
        from flashir_onnx.session import Session

        return Session(emit(graph, params), device)
