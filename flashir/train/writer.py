"""Work that only the first of several processes does, such as writing files."""

from __future__ import annotations

from collections.abc import Callable


class Writer:
    """Does such work until it fails. The error is kept, because the other processes must stop before it is raised.

    Args:
        is_first: whether this process is the first.
    """

    def __init__(self, is_first: bool) -> None:
        self._is_first = is_first
        self._error: Exception | None = None

    def do(self, work: Callable[[], object]) -> None:
        """Do the work now, unless this is another process or earlier work has failed."""
        if self._is_first and self._error is None:
            try:
                work()
            except Exception as error:
                self._error = error

    @property
    def failed(self) -> bool:
        """Whether some work has failed."""
        return self._error is not None

    def check(self) -> None:
        """Raise the error of failed work."""
        if self._error is not None:
            raise self._error
