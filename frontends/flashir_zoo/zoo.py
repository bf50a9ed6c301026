"""The models of the zoo as graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashir.ir import Attr, Builder, Graph, Value
from flashir_zoo.settings import attrs_of, dtype_of, resolve
from flashir_zoo.systems import SYSTEMS


class Zoo:
    """The paper's systems: FLASH and what it is compared with, in every size and for both tasks."""

    name = "zoo"

    def models(self) -> Mapping[str, str]:
        """The names of the models, and a line on each."""
        return {name: system.doc for name, system in SYSTEMS.items()}

    def build(self, model: str, settings: Mapping[str, Attr]) -> Graph:
        """tokens [b, t] -> logits [b, t, vocab]: embed, positions, the layers, a last norm, the tied embedding.

        Raises SettingError with every setting that is unknown or wrong.
        """
        chosen: dict[str, Any] = resolve(model, settings)
        system = SYSTEMS[model]
        b = Builder(graph_name(model))
        ids = b.input("ids", "i32[B, T]")
        segments = [b.input("segment_ids", "i32[B, T]")] if chosen.get("segments") else []
        embedded = b.embed(ids, vocab=chosen["vocab"], dim=chosen["d_model"], dtype=dtype_of(chosen))
        (x,) = b.insert(system.position, (embedded,), attrs_of(system.position, chosen))

        def layer(b: Builder, h: Value, *segments: Value) -> Value:
            for block in system.blocks:
                (h,) = b.insert(block, (h, *segments), attrs_of(block, chosen))
            return h

        x = b.repeat(x, *segments, times=chosen["depth"], body=layer)
        norm = b.insert(str(chosen["norm"]), (x,))[0]
        return b.finish(b.unembed(norm, tied=chosen["tied"]))


def graph_name(model: str) -> str:
    """The model's name in letters and underscores: `transformer++` is `transformer_plus_plus`."""
    return model.replace("-", "_").replace("+", "_plus")
