"""The one check that what is shown or compared is finite: neither NaN nor infinite."""

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
    f"float16 ends at {FLOAT16_LARGEST:,}: compute in bfloat16 or float32, or read shorter texts; "
    "in float32, look at the parameters"
)


def check_finite(result: npt.ArrayLike, what: str, *, where: str = "", hint: str = "") -> None:
    """Raises ResultError where numbers of a result [b, t, ..] are NaN or infinite; it says from which token on.

    Args:
        result: of a run; other than floats pass.
        what: its name in the error, a plural such as `the logits`.
        where: place of the error.
        hint: how to get rid of it, where that is known better.
    """
    import numpy as np

    array = np.asarray(result)
    if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
        return
    strange = ~np.isfinite(array)
    raise ResultError(f"{what} are not finite{_from_where(strange)}", where=where, hint=hint or HINT)


def representable(number: float | None) -> float | None:
    """The number; None where it is too large for a float, as e to a loss of 800 nats is."""
    return None if number == math.inf else number


def check_numbers(value: Any, *, where: str = "") -> None:
    """Raises ResultError naming every NaN and infinity in a value as JSON has them: dicts, lists, numbers.

    Args:
        value: of what a verb prints.
        where: place of the error.
    """
    problems = [f"{name} is not a finite number, got {number}" for name, number in _strange(value, "")]
    if problems:
        raise ResultError(problems, where=where, hint=HINT)


def _from_where(strange: npt.NDArray[np.bool_]) -> str:
    """`: 40 of 64 tokens, the first is token 12 of row 0`; nothing where there are no rows of tokens."""
    import numpy as np

    if strange.ndim < 2:
        return ""
    tokens = strange.reshape(*strange.shape[:2], -1).any(-1)
    row, first = (int(index) for index in np.argwhere(tokens)[0])
    return f": {np.count_nonzero(tokens):,} of {tokens.size:,} tokens, the first is token {first:,} of row {row}"


def _strange(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _strange(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _strange(item, f"{name}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield name or "the number", value
