"""The ONNX text of one tiny model, as it was last agreed to.

After a change that is meant to change it, write it anew and read the difference:

    python -m tests.backends.onnx.test_golden && git diff tests/golden/onnx
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tests.backends.onnx.support import emitted, flash, unit

GOLDEN = Path(__file__).parents[2] / "golden" / "onnx" / "flash.txt"


def test_the_text_is_as_agreed() -> None:
    assert text() == GOLDEN.read_text(encoding="utf-8")


def text() -> str:
    """Two flash layers, states summed up by a scan."""
    model = flash()
    return "\n".join(_model(emitted(model, unit(model)).model)) + "\n"


def _model(model: ModelProto) -> Iterator[str]:
    opsets = ", ".join(f"{each.domain or 'ai.onnx'} {each.version}" for each in model.opset_import)
    yield f"ir {model.ir_version}, opsets {opsets}"
    for function in model.functions:
        yield f"\nfunction {function.name}({', '.join(function.input)}) -> ({', '.join(function.output)})"
        yield from _nodes(function.node, "  ")
    inputs, outputs = (", ".join(map(_info, values)) for values in (model.graph.input, model.graph.output))
    yield f"\ngraph {model.graph.name}({inputs}) -> ({outputs})"
    for tensor in model.graph.initializer:
        yield f"  {tensor.name}: {_tensor(tensor)}"
    yield from _nodes(model.graph.node, "  ")


def _nodes(nodes: Iterable[NodeProto], indent: str) -> Iterator[str]:
    for node in nodes:
        plain = [a for a in node.attribute if a.type != AttributeProto.GRAPH]
        attributes = "".join(f" {a.name}={_attribute(a)}" for a in plain)
        yield f"{indent}{', '.join(node.output)} = {node.op_type}({', '.join(node.input)}){attributes}"
        for body in (a.g for a in node.attribute if a.type == AttributeProto.GRAPH):
            yield from _body(body, indent + "  ")


def _body(body: GraphProto, indent: str) -> Iterator[str]:
    yield f"{indent}({', '.join(map(_info, body.input))}) -> ({', '.join(map(_info, body.output))})"
    yield from _nodes(body.node, indent)


def _attribute(attribute: AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return _tensor(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _tensor(tensor: TensorProto) -> str:
    """Type and shape, and the numbers, unless it is a weight."""
    type_ = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    constant = tensor.name.startswith("constant") or not tensor.name
    return f"{type_}{list(tensor.dims)}" + (f" = {numpy_helper.to_array(tensor).tolist()}" if constant else "")


def _info(info: ValueInfoProto) -> str:
    tensor = info.type.tensor_type
    shape = [size.dim_param or (size.dim_value if size.HasField("dim_value") else "?") for size in tensor.shape.dim]
    return f"{info.name}: {helper.tensor_dtype_to_np_dtype(tensor.elem_type)}[{', '.join(map(str, shape))}]"


if __name__ == "__main__":
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(text(), encoding="utf-8")
