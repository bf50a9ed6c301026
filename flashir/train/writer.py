"""What the first process does for all, such as to write; the others only compute."""

from __future__ import annotations

from collections.abc import Callable


class Writer:
    """Does such work, until it fails once. The error waits, for the others must stop before this process ends.

    Args:
        is_first: whether this process does any.
    """

    def __init__(self, is_first: bool) -> None:
        self._is_first = is_first
        self._error: Exception | None = None

    def do(self, work: Callable[[], object]) -> None:
        """Do it, here and now, or nothing."""
        if self._is_first and self._error is None:
            try:
                work()
            except Exception as error:
                self._error = error

    @property
    def failed(self) -> bool:
        """Whether some work did."""
        return self._error is not None

    def check(self) -> None:
        """Raises what failed work raised."""
        if self._error is not None:
            raise self._error
