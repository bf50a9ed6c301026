"""The models of the zoo as graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashir.ir import Attr, Builder, Graph, Value
from flashir_zoo.settings import SYSTEMS, block_attrs, dtype_of, resolve


class Zoo:
    """The paper's systems: `flash` and `flash-quad`, in every size and for both tasks."""

    name = "zoo"

    def models(self) -> Mapping[str, str]:
        """The names of the models, and a line on each."""
        return {name: system.doc for name, system in SYSTEMS.items()}

    def build(self, model: str, settings: Mapping[str, Attr]) -> Graph:
        """tokens [b, t] -> logits [b, t, vocab]: embed, ScaledSin, the layers, a last norm, the tied embedding.

        Raises SettingError with every setting that is unknown or wrong.
        """
        chosen: dict[str, Any] = resolve(model, settings)
        block, attrs = SYSTEMS[model].block, block_attrs(model, chosen)
        b = Builder(model.replace("-", "_"))
        ids = b.input("ids", "i32[B, T]")
        segments = [b.input("segment_ids", "i32[B, T]")] if chosen.get("segments") else []
        x = b.scaled_sin(b.embed(ids, vocab=chosen["vocab"], dim=chosen["d_model"], dtype=dtype_of(chosen)))

        def layer(b: Builder, h: Value, *segments: Value) -> Value:
            return b.insert(block, (h, *segments), attrs)[0]

        x = b.repeat(x, *segments, times=chosen["depth"], body=layer)
        norm = b.insert(str(chosen["norm"]), (x,))[0]
        return b.finish(b.unembed(norm, tied=chosen["tied"]))
