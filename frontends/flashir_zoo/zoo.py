"""Build the models of the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashir.ir import Attr, Builder, DType, Graph, Value
from flashir.ops import OPS, AttrSpec
from flashir_zoo.settings import attrs_of, dtype_of, resolve, specs_of
from flashir_zoo.systems import SYSTEMS


class Zoo:
    """The systems of the paper: FLASH and its baselines, in every size and for both tasks."""

    name = "zoo"

    def models(self) -> Mapping[str, str]:
        """The names of the models, each with a line of documentation."""
        return {name: system.doc for name, system in SYSTEMS.items()}

    def settings(self, model: str) -> Mapping[str, AttrSpec]:
        """The settings of a model besides its size and task."""
        return specs_of(SYSTEMS[model])

    def build(self, model: str, settings: Mapping[str, Attr]) -> Graph:
        """tokens [b, t] -> logits [b, t, vocab]: embedding, positions, layers, an optional norm, the tied embedding.

        With `predict = "tags"` the result is a score for each label of each token, [b, t, labels]; with `"class"`, of
        the mean over the tokens of a row, [b, labels].

        Its further inputs are `segment_ids` (integers) and `mask` (bool), both [b, t], if the settings enable them.

        Raises SettingError that lists every unknown or invalid setting.
        """
        chosen: dict[str, Any] = resolve(model, settings)
        system = SYSTEMS[model]
        b = Builder(graph_name(model))
        ids = b.input("ids", "i32[B, T]")
        beside = _beside(b, chosen)
        embedded = b.embed(ids, vocab=chosen["vocab"], dim=chosen["d_model"], dtype=dtype_of(chosen))
        (x,) = b.insert(system.position, (embedded,), attrs_of(system.position, chosen))

        def layer(b: Builder, h: Value, *values: Value) -> Value:
            named = dict(zip(beside, values, strict=True))
            for block in system.blocks:
                others = (named.get(name.rstrip("?")) for name in OPS[block].operands[1:])
                (h,) = b.insert(block, (h, *others), attrs_of(block, chosen))
            return h

        x = b.repeat(x, *beside.values(), times=chosen["depth"], body=layer)
        normed = x if chosen["norm"] == "none" else b.insert(str(chosen["norm"]), (x,))[0]
        return b.finish(_scores(b, normed, chosen))


def _scores(b: Builder, x: Value, chosen: Mapping[str, Any]) -> Value:
    """The head on the last norm [b, t, d]."""
    if chosen["predict"] == "tokens":
        return b.unembed(x, tied=chosen["tied"], bias=chosen["head_bias"])
    head = {"vocab": chosen["labels"], "tied": False, "bias": True, "scope": "head"}
    if chosen["predict"] == "tags":
        return b.unembed(x, **head)
    return b.reshape(b.unembed(_pooled(b, x), **head), shape=(x.type.shape[0], chosen["labels"]))


def _pooled(b: Builder, x: Value) -> Value:
    """The mean over the tokens of each row in float32: [b, t, d] -> [b, 1, d]; 0 for a row without tokens."""
    rows, length, _ = x.type.shape
    wide = b.cast(x, dtype=DType.F32)
    mask = next((value for value in b.inputs if value.name == "mask"), None)
    if mask is None:
        count = b.size(value=length, dtype=DType.F32)
    else:
        seen = b.reshape(mask, shape=(rows, length, 1))
        wide = b.select(seen, wide, 0.0)
        count = b.reduce_sum(b.cast(seen, dtype=DType.F32), axes=(1,), keepdims=True)
    mean = b.div(b.reduce_sum(wide, axes=(1,), keepdims=True), b.maximum(count, 1.0))
    return b.cast(mean, dtype=x.type.dtype)


def _beside(b: Builder, chosen: Mapping[str, Any]) -> dict[str, Value]:
    """The masking inputs of the blocks, by the name of the operand."""
    segment_ids = b.input("segment_ids", "i32[B, T]") if chosen.get("segments") else None
    mask = b.input("mask", "bool[B, T]") if chosen.get("mask") else None
    if segment_ids is None:
        return {} if mask is None else {"documents": mask}
    if chosen["segments"] == "token":
        return {"documents": b.documents(segment_ids, mask)}
    return {"segment_ids": segment_ids} | ({} if mask is None else {"documents": mask})


def graph_name(model: str) -> str:
    """The name of a model as an identifier: `transformer++` becomes `transformer_plus_plus`."""
    return model.replace("-", "_").replace("+", "_plus")
