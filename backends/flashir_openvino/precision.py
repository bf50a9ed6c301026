"""The compute type of a graph as a hint for OpenVINO.

OpenVINO chooses the type of each of its kernels itself, given a float32 model and a hint. Without more it would also
narrow what a graph keeps in float32: positions, sums, states. So a graph in a narrow type is written one size wider:
its narrow values in float32, which the hint narrows, and its float32 values in float64, which are marked, so that
OpenVINO computes them in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from flashir.errors import TargetError
from flashir.ir import Builder, DType, Graph, Node, TensorType, Value
from flashir.transforms.rewriter import rewrite
from flashir_openvino.runtime import computes_in

HINTS = {DType.F32: "f32", DType.BF16: "bf16", DType.F16: "f16"}
CAPABILITIES = {DType.BF16: "BF16", DType.F16: "FP16"}
KEPT_IN = {DType.F32: DType.F64}
WRITTEN_IN = {DType.BF16: DType.F32, DType.F16: DType.F32}
KEPT = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
"""The attribute of a layer of OpenVINO that no hint narrows. Its value names float16; it holds for bfloat16 as well."""


def compute_type(graph: Graph) -> DType:
    """The narrowest float type in which a graph computes."""
    values = {value for node in graph.walk() for value in (*node.operands, *node.outputs)} | set(graph.inputs)
    floats = {value.type.dtype for value in values if value.type.dtype.is_float}
    return next((dtype for dtype in CAPABILITIES if dtype in floats), DType.F32)


def hint(dtype: DType, device: str) -> str:
    """The hint for a compute type. Raises TargetError if the device would emulate it."""
    if dtype in CAPABILITIES and CAPABILITIES[dtype] not in (here := computes_in(device)):
        known = ", ".join(sorted(here & set(CAPABILITIES.values()))) or "none"
        raise TargetError(
            f"this device has no arithmetic in {dtype}; of the narrow types it has {known}",
            where=f"openvino:{device}",
            hint="use float32",
        )
    return HINTS[dtype]


def widened(graph: Graph) -> Graph:
    """A graph in a narrow type, one size wider inside. Float inputs and results are in float32."""
    if compute_type(graph) is DType.F32:
        return graph
    inside = _retyped(_retyped(graph, KEPT_IN), WRITTEN_IN)
    b = Builder(graph.name)
    values: dict[Value, Value] = {}
    for value in inside.inputs:
        wanted = value.type.dtype
        x = b.input(value.name, _in(value.type, {DType.F64: DType.F32}))
        values[value] = x if x.type.dtype is wanted else b.cast(x, dtype=wanted)
    b.inline(inside.nodes, values)
    results = [values[value] for value in inside.outputs]
    return b.finish(*(b.cast(x, dtype=DType.F32) if x.type.dtype is DType.F64 else x for x in results))


def _retyped(graph: Graph, dtypes: Mapping[DType, DType]) -> Graph:
    """The graph with each of these types replaced by another."""

    def rule(b: Builder, node: Node) -> Sequence[Value] | None:
        dtype = node.attrs.get("dtype")
        if not isinstance(dtype, DType) or dtype not in dtypes:
            return None
        return b.insert(node.op, node.inputs, {**node.attrs, "dtype": dtypes[dtype]}, node.region)

    return rewrite(graph, rule, inputs=[_in(value.type, dtypes) for value in graph.inputs])


def _in(type_: TensorType, dtypes: Mapping[DType, DType]) -> TensorType:
    return TensorType(dtypes.get(type_.dtype, type_.dtype), type_.shape)


def marked(xml: str) -> str:
    """The XML of a model with the attribute on every layer that reads or writes float64."""
    root = ElementTree.fromstring(xml)
    for layer in root.iter("layer"):
        if any(port.get("precision") == "FP64" for port in layer.iter("port")):
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.Element("rt_info")
                layer.insert(1 if layer.find("data") is not None else 0, info)
            ElementTree.SubElement(info, "attribute", KEPT)
    return ElementTree.tostring(root, encoding="unicode")
