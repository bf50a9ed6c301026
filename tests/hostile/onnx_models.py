"""ONNX models of flashir's with weights beside them, that somebody changed and sealed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

from flashir_onnx.seal import DIGEST, properties, sealed

Change = Callable[[ModelProto], object]


def resealed(path: Path, change: Change) -> None:
    """Change a model in its place, and seal it again."""
    model = onnx.load(path, load_external_data=False)
    change(model)
    about = {name: value for name, value in properties(model).items() if name != DIGEST}
    path.write_bytes(sealed(model, about)[0])


def _outside(model: ModelProto) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


def entry(key: str, value: str) -> Change:
    """Another value of an entry of a weight outside."""

    def change(model: ModelProto) -> None:
        next(each for each in _outside(model).external_data if each.key == key).value = value

    return change


def moved(location: Callable[[str], str]) -> Change:
    """Another place of every weight outside."""

    def change(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            for each in tensor.external_data:
                if each.key == "location":
                    each.value = location(each.value)

    return change


def _secret(model: ModelProto) -> TensorProto:
    tensor = TensorProto(name="secret", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _in_a_node(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["secret"], value=_secret(model)))


def _in_a_body(model: ModelProto) -> None:
    body = helper.make_graph([], "body", [], [], initializer=[_secret(model)])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body))


def _in_a_function(model: ModelProto) -> None:
    node = helper.make_node("Constant", [], ["secret"], value=_secret(model))
    model.functions.append(helper.make_function("mine", "f", [], ["secret"], [node], []))


def functions_that_double(model: ModelProto) -> None:
    """Functions of two nodes, each of them the next function: 2^60 nodes."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model.opset_import.append(opsets[1])
    for number in range(60):
        pair = [helper.make_node(f"f{number + 1}", [x], [y], domain="mine") for x, y in (("a", "b"), ("b", "c"))]
        model.functions.append(helper.make_function("mine", f"f{number}", ["a"], ["c"], pair, opsets))
    model.graph.node.insert(0, helper.make_node("f0", ["x"], ["doubled"], domain="mine"))


def functions_in_a_circle(model: ModelProto) -> None:
    """A function that calls itself."""
    functions_that_double(model)
    model.functions[-1].node[0].op_type = "f0"


def _sparse(model: ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(_secret(model))


CHANGES: dict[str, Change] = {
    "a file above": moved(lambda name: f"../{name}"),
    "a file above, by a folder": moved(lambda name: f"x/../{name}"),
    "a file here, spelled out": moved(lambda name: f"./{name}"),
    "an absolute place": moved(lambda name: f"/etc/{name}"),
    "a file of another": moved(lambda name: "weights.data"),
    "another case": moved(str.upper),
    "a zero in a name": moved(lambda name: f"{name}\0x"),
    "no name": moved(lambda name: ""),
    "an offset outside": entry("offset", str(10**12)),
    "a length outside": entry("length", str(10**12)),
    "an offset before": entry("offset", "-4096"),
    "an offset of many digits": entry("offset", "9" * 5000),
    "an offset that is none": entry("offset", "0x10"),
    "a place twice": lambda model: _outside(model).external_data.add(key="location", value="/etc/passwd"),
    "another entry": lambda model: _outside(model).external_data.add(key="checksum", value="0"),
    "a weight of a node": _in_a_node,
    "a weight of a body": _in_a_body,
    "a weight of a function": _in_a_function,
    "a sparse weight": _sparse,
    "functions that double": functions_that_double,
    "functions in a circle": functions_in_a_circle,
    "metadata twice": lambda model: model.metadata_props.add(key="flashir.model", value="x"),
}
"""By what is odd: places that the digest and a runtime would read differently, and functions without end."""
