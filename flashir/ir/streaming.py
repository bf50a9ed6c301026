"""How an op decodes token by token: the two rules that its record holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flashir.ir.graph import Value

States = Mapping[str, Any]
"""The values of an op's states by name; none has an axis of tokens whose size is open."""


def _keeps_nothing(now: object, *operands: Value, **attrs: Any) -> States:
    return {}


@dataclass(frozen=True)
class StreamingRule:
    """How an op is continued whose result for a token depends on others, or on the position.

    Both rules take the attributes as `decompose` does, sizes those of the graph in the making, `p` where it owns
    parameters.

    Args:
        step: moment, states, operands for the new tokens -> the results for them, and the states after them.
        after: moment, operands for a whole prompt -> the states after each row's own tokens.
    """

    step: Callable[..., tuple[Any, States]]
    after: Callable[..., States] = _keeps_nothing
