"""The first result of a model with several: what training, gradients and decoding are about."""

from __future__ import annotations

from dataclasses import replace

from flashir.ir.graph import Graph


def first_result(model: Graph) -> Graph:
    """`return %logits, %hidden` -> `return %logits`. Nodes that only other results need stay, with their parameters."""
    return model if len(model.outputs) == 1 else replace(model, outputs=model.outputs[:1])
