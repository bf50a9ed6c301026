"""The lowering: the passes that take a model, choices made, down to what a target claims."""

from __future__ import annotations

from collections.abc import Sequence

from flashir.passes.base import Pass, Pipeline
from flashir.passes.canonicalise import Canonicalise
from flashir.passes.hoist import Hoist
from flashir.passes.lower import Claims, EinsumToMatmul, Lower
from flashir.passes.pad import PadTokens
from flashir.passes.scopes import NameParameters


def lowering(claims: Claims, target: str, extra: Sequence[Pass] = ()) -> Pipeline:
    """The pipeline for a target.

    Args:
        claims: what the target does natively.
        target: its name, for errors.
        extra: the target's own passes; they see a graph that is lowered, and not yet canonical.
    """
    lower = (NameParameters(), PadTokens(), Lower(target, claims), EinsumToMatmul())
    return Pipeline((*lower, *extra, Hoist(), Canonicalise()))
