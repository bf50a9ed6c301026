"""The whole model: an embedding with positions, layers, a norm, a head. Its graph and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flashir.backends.protocols import Array
from flashir.errors import ArtefactError, gathered
from flashir.ir import Builder, Graph, Value
from flashir_onnx.raising.dataflow import Dataflow
from flashir_onnx.raising.layer import Layer, read_layer
from flashir_onnx.raising.templates import Match, layers
from flashir_onnx.raising.unit import Reading, close, find_linear, find_norm, norm_attrs, unrecognised

COPIES = ("Identity", "Cast")
"""Operators that keep token ids and results as they are. A cast that does not shows in the comparison with the file."""


@dataclass(frozen=True)
class Raised:
    """A raised model.

    Args:
        graph, params: the model and its float32 parameters by full name.
        layers: the recognised layers.
        notes: notes for the user.
    """

    graph: Graph
    params: Mapping[str, npt.NDArray[np.float32]]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()


Matches = tuple[Match, ...]
"""The possible matches of one layer."""


def matched(flow: Dataflow) -> tuple[list[Matches], list[str]]:
    """The layers of a graph, and the multiplications after the last one, which are the head.

    Raises ArtefactError that lists what is neither.
    """
    multiplications = flow.multiplications()
    matches, problems = list[Matches](), list[str]()
    for part in layers(multiplications):
        if isinstance(part, tuple):
            matches.append(part)
        else:
            problems.append(f"the multiplications {', '.join(sorted(part))} are those of no flash or gau layer")
    if not (matches or problems):
        problems.append("it has no product of two values, so no attention")
    inside = {name for possible in matches for match in possible for name in match.roles.values()}
    head = [name for name in multiplications if name not in inside]
    if len(head) > 1 and not problems:
        problems.append(f"the multiplications {', '.join(head)} belong to no layer; a head has one")
    if problems:
        raise ArtefactError(problems)
    return matches, head


def raise_model(reading: Reading, matches: list[Matches], head: list[str]) -> Raised:
    """The model of a graph. Raises ArtefactError that lists the parts that are not recognised."""
    b = Builder("onnx_model")
    params: dict[str, Array] = {}
    flow = reading.flow
    tokens = reading.seen[flow.input].dtype.kind != "f"
    x = flow.input
    if tokens:
        value, x = _embedding(reading, b, params)
    else:
        value = b.input("x", f"f32[B, T, {reading.seen[x].shape[-1]}]")
    problems: list[str] = []
    read: list[Layer] = []
    for possible in matches:
        with gathered(problems):
            read.append(_layer(reading.again(), possible, x))
        if problems:  # without the result of a layer, those after it cannot be read
            raise ArtefactError(f"layer {len(read)}: {problem}" for problem in problems)
        x = read[-1].result
    value = _stacked(b, value, read)
    for number, layer in enumerate(read):
        params |= {f"layers.{number}.{name}": array for name, array in layer.params.items()}
    graph = b.finish(_head(reading, b, value, x, head, params))
    notes = tuple(dict.fromkeys(note for layer in read for note in layer.notes))
    exact = {name: np.asarray(array, np.float32) for name, array in params.items()}
    return Raised(graph, exact, tuple(read), notes)


def _layer(reading: Reading, possible: Matches, x: str) -> Layer:
    """The layer by the first match that its values agree with. Raises the error of the first match if none does."""
    errors = []
    for match in possible:
        try:
            return read_layer(reading, match, x)
        except ArtefactError as error:
            errors.append(error)
    raise errors[0]


def _embedding(reading: Reading, b: Builder, params: dict[str, Array]) -> tuple[Value, str]:
    """The embedding and its positions, and the name of their value. Raises ArtefactError."""
    flow, name = reading.flow, reading.flow.input
    while len(after := list(flow.values.successors(name))) == 1 and flow.nodes[after[0]].op_type in COPIES:
        name = after[0]
    if len(after) != 1 or flow.nodes[after[0]].op_type != "Gather" or flow.nodes[after[0]].input[1] != name:
        raise unrecognised(f"the use of the token ids {name!r}", "it is not a single embedding")
    name = after[0]
    table = reading.seen[flow.nodes[name].input[0]]
    if table.ndim != 2:
        raise unrecognised(f"the embedding {name!r}")
    params["embed.weight"] = table
    value = b.embed(b.input("ids", "i32[B, T]"), vocab=table.shape[0], dim=table.shape[1])
    after = [name for name in flow.values.successors(name) if flow.nodes[name].op_type == "Add"]
    added = [(at, reading.seen[constant]) for at in after for constant in flow.constants(at)]
    tables = [(at, array) for at, array in added if array.shape[-2:] == (reading.length, table.shape[1])]
    if len(added) != 1 or not tables:
        return value, name
    at, positions = tables[0][0], tables[0][1].reshape(reading.length, -1)
    half = positions.shape[1] // 2
    angles = np.arange(reading.length)[:, None] * 10000.0 ** (-np.arange(half) / half)
    scale = positions[0, half]  # cos(0) is 1
    if not close(np.concatenate([np.sin(angles), np.cos(angles)], -1) * scale, positions):
        raise unrecognised(f"the sum {at!r}", "it adds other positions than scaled sinusoids")
    params["pos.scale"] = np.array(scale)
    return b.scaled_sin(value), at


def _stacked(b: Builder, value: Value, read: list[Layer]) -> Value:
    """The layers; if all are alike, as a repeat."""
    first = read[0]
    if len(read) > 1 and all((layer.op, layer.attrs) == (first.op, first.attrs) for layer in read):
        return b.repeat(value, times=len(read), body=lambda b, h: getattr(b, first.op)(h, **first.attrs))
    for layer in read:
        value = getattr(b, layer.op)(value, **layer.attrs)
    return value


def _head(reading: Reading, b: Builder, value: Value, x: str, head: list[str], params: dict[str, Array]) -> Value:
    """The final norm and the head, up to the output. Raises ArtefactError."""
    flow = reading.flow
    linear = find_linear(reading, head[0]) if head else None
    end = flow.output
    while flow.nodes[end].op_type in COPIES and end != x:
        end = flow.nodes[end].input[0]
    if linear is not None and linear.name != end:
        raise unrecognised(f"what follows the head {linear.name!r}")
    norm = find_norm(reading, x, flow.varying(head[0]) if head else end)
    if norm.params:
        value = getattr(b, norm.attrs["norm"])(value, **norm_attrs(norm))
        params |= {f"final_norm.{name}": array for name, array in norm.params.items()}
    if linear is None:
        return value
    biased = bool(linear.bias.any())
    embedding = params.get("embed.weight")
    if embedding is not None and not biased and np.array_equal(linear.weight.T, embedding):
        return b.unembed(value, tied=True)
    params["unembed.weight"] = linear.weight
    if biased:
        params["unembed.bias"] = linear.bias
    return b.unembed(value, vocab=linear.weight.shape[1], tied=False, bias=biased)
