"""ONNX Runtime GenAI: the names and shapes of states that the package knows, and its config.

For each layer, the package holds a pair of states of one shape (`key` and `value`), a state of rank 4
(`recurrent_state`) and one of rank 3 (`conv_state`). It makes them zero at first, and lets outputs overwrite inputs.
What they mean is up to the model. docs/guides/hosts.md says which models fit, and what a host must know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import GraphProto, TensorProto, helper

from flashir.backends.decoding import Decoding, Extending
from flashir.errors import SettingError, TargetError, option
from flashir.ir import TensorType

CONFIG = "genai_config.json"
LONGEST = 1 << 17
"""The context length in the config of a model that has no limit of its own."""

PAD = -1
"""The id of padding, which is no token: the package leaves out tokens of a prompt that are equal to it."""

RANKS = {"key": 4, "value": 4, "recurrent_state": 4, "conv_state": 3}
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Slot:
    """The place of a state in the package.

    Args:
        layer: the number of its layer.
        kind: one of RANKS.
    """

    layer: int
    kind: str

    @property
    def names(self) -> tuple[str, str]:
        """The names of the input and of the output."""
        return f"past_key_values.{self.layer}.{self.kind}", f"present.{self.layer}.{self.kind}"


def slots(types: Mapping[str, TensorType]) -> dict[str, Slot]:
    """The slot of each state. Raises TargetError if the package has none for a state."""
    layers: dict[int, dict[str, TensorType]] = {}
    for name, type_ in types.items():
        layer = _LAYER.match(name)
        if layer is None or type_.rank not in (3, 4):
            raise _unfit(f"the state {name}: {type_} is in no layer, or has not 3 or 4 axes")
        layers.setdefault(int(layer[1]), {})[name] = type_
    by_layer = {layer: _slots_of_layer(states, layer) for layer, states in layers.items()}
    if not by_layer or {*layers} != {*range(len(layers))}:
        raise _unfit(f"its layers with states are {sorted(layers)}, wanted all layers")
    first, *others = (
        {slot.kind: types[name].shape for name, slot in of_layer.items()} for of_layer in by_layer.values()
    )
    if any(other != first for other in others):
        raise _unfit("its layers have states of different shapes")
    return {name: slot for of_layer in by_layer.values() for name, slot in of_layer.items()}


def _slots_of_layer(types: Mapping[str, TensorType], layer: int) -> dict[str, Slot]:
    """A pair of equal shapes is key and value. Of the others one needs rank 4, or takes it, and one has rank 3."""
    pair = next(([x, y] for x in types for y in types if x < y and types[x] == types[y]), [])
    rest = sorted((name for name in types if name not in pair), key=lambda name: -types[name].rank)
    if len(rest) > 2 or (len(rest) == 2 and types[rest[1]].rank == 4):
        raise _unfit(f"layer {layer} has the states {', '.join(types)}, more than the package holds")
    return {
        name: Slot(layer, kind)
        for names, kinds in ((pair, ("key", "value")), (rest, ("recurrent_state", "conv_state")))
        for name, kind in zip(names, kinds)
    }


def _unfit(problem: str) -> TargetError:
    return TargetError(
        f"ONNX Runtime GenAI cannot hold the states of this model: {problem}",
        where="genai",
        hint="export a decoder for no host, and drive decoder.onnx as the README does",
    )


def slots_of(decoding: Decoding | Extending) -> dict[str, Slot]:
    """The slots of the states of a decoder. Raises TargetError as `slots` does."""
    return slots({state.name: state.type for state in decoding.state})


def layout(types: dict[str, TensorType]) -> dict[str, TensorType]:
    """The types of states in the package, which wants an axis of heads. Raises TargetError as `slots` does."""
    return {name: _with_rank(types[name], RANKS[slot.kind]) for name, slot in slots(types).items()}


def _with_rank(type_: TensorType, rank: int) -> TensorType:
    batch, *rest = type_.shape
    return type_.with_shape((batch, *(1,) * (rank - type_.rank), *rest))


def add_missing(model: GraphProto, present: Sequence[Slot]) -> None:
    """Add a `conv_state` of one number, which stays as it is, to layers that have a `recurrent_state` alone.

    The package wants both.
    """
    kinds = {(slot.layer, slot.kind) for slot in present}
    for layer, kind in sorted(kinds):
        if kind == "recurrent_state" and (layer, "conv_state") not in kinds:
            before, after = Slot(layer, "conv_state").names
            for values, name in ((model.input, before), (model.output, after)):
                values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 1]))
            model.node.append(helper.make_node("Identity", [before], [after], name=after))


def config(decoding: Extending, ends: Sequence[int], piece: int) -> bytes:
    """genai_config.json. Raises SettingError if no token ends a text, which the package needs to know."""
    if not ends:
        raise SettingError(
            "ONNX Runtime GenAI needs a token that ends texts, and none is known",
            where="genai",
            hint=f"name one with {option('ends', '', flag='--end-token')}, or train with a tokenizer that has one",
        )
    held = slots_of(decoding)
    vocab = decoding.extend.outputs[0].type.shape[-1]
    inputs, outputs = {"input_ids": "input_ids", "position_ids": "position_ids"}, {"logits": "logits"}
    for kind in ("key", "value", "conv", "recurrent"):
        if any(slot.kind.startswith(kind) or (kind == "conv" and "recurrent" in slot.kind) for slot in held.values()):
            state = kind if kind in RANKS else f"{kind}_state"
            inputs[f"past_{kind}_names"] = f"past_key_values.%d.{state}"
            outputs[f"present_{kind}_names"] = f"present.%d.{state}"
    context = decoding.max_len or LONGEST
    keys = [state.type.shape for state in decoding.state if held[state.name].kind == "key"] or [(0, 1, 1, 1)]
    heads, width = keys[0][1], keys[0][3]
    assert isinstance(heads, int) and isinstance(width, int)
    decoder: dict[str, Any] = {
        "filename": "decoder.onnx",
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "hidden_size": heads * width,
        "head_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "num_hidden_layers": 1 + max(slot.layer for slot in held.values()),
        "inputs": inputs,
        "outputs": outputs,
    }
    model = {
        "type": "decoder",
        "vocab_size": vocab,
        "context_length": context,
        "bos_token_id": ends[0],
        "eos_token_id": list(ends) if len(ends) > 1 else ends[0],
        "pad_token_id": PAD,
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": context, "past_present_share_buffer": True, "chunk_size": piece}
    return json.dumps({"model": model, "search": search}, indent=2).encode()
