"""Check that results are finite: neither NaN nor infinite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flashir.errors import ResultError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FLOAT16_LARGEST = 65_504
HINT = (
    f"float16 ends at {FLOAT16_LARGEST:,}: compute in bfloat16 or float32, or use shorter texts; "
    "in float32, check the parameters"
)


def check_finite(result: npt.ArrayLike, what: str, *, where: str = "", hint: str = "") -> None:
    """Raise ResultError, with the first token, if values of a result [b, t, ..] are NaN or infinite.

    Args:
        result: the result of a run; other dtypes than floats pass.
        what: its name in the error, a plural such as `the logits`.
        where: the place of the error.
        hint: how to fix it; by default a general hint.
    """
    import numpy as np

    array = np.asarray(result)
    if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
        return
    bad = ~np.isfinite(array)
    raise ResultError(f"{what} are not finite{_from_where(bad)}", where=where, hint=hint or HINT)


def representable(number: float | None) -> float | None:
    """The number, or None if it is infinite, such as the perplexity of a loss of 800 nats."""
    return None if number == math.inf else number


def check_numbers(value: Any, *, where: str = "") -> None:
    """Raise ResultError that lists every NaN and infinity in a JSON value: dicts, lists, numbers.

    Args:
        value: the output of a command.
        where: the place of the error.
    """
    problems = [f"{name} is not a finite number, got {number}" for name, number in _not_finite(value, "")]
    if problems:
        raise ResultError(problems, where=where, hint=HINT)


def _from_where(bad: npt.NDArray[np.bool_]) -> str:
    """`: 40 of 64 tokens, the first is token 12 of row 0`; empty if there are no rows of tokens."""
    import numpy as np

    if bad.ndim < 2:
        return ""
    tokens = bad.reshape(*bad.shape[:2], -1).any(-1)
    row, first = (int(index) for index in np.argwhere(tokens)[0])
    return f": {np.count_nonzero(tokens):,} of {tokens.size:,} tokens, the first is token {first:,} of row {row}"


def _not_finite(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{name}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield name or "the number", value
