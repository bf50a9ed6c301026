"""The rules of an op for decoding token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flashir.ir.graph import Value

States = Mapping[str, Any]
"""The state of an op by name. No state has a token axis of symbolic size."""


def _keeps_nothing(now: object, *operands: Value, **attrs: Any) -> States:
    return {}


@dataclass(frozen=True)
class StreamingRule:
    """How to decode an op whose result for a token depends on other tokens or on the position.

    Both rules take the attributes like `decompose`, with sizes of the graph that is being built, and `p` if the op
    owns parameters.

    Args:
        step: context, states, operands for new tokens, one of each row or any number -> the results for them, and the
            new states.
        after: context, operands for a whole prompt -> the states after the last token of each row.
    """

    step: Callable[..., tuple[Any, States]]
    after: Callable[..., States] = _keeps_nothing
