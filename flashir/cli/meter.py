"""Progress of long work, on stderr: a bar on a terminal, nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from flashir.cli import console

Step = Callable[[str, int, int], None]
"""Called with what is being done, the amount done and the total amount."""


@contextmanager
def meter(*, still: bool = False) -> Iterator[Step]:
    """A progress bar, advanced by `step("measuring", 3, 25)`. A `still` bar is drawn only in these calls."""
    errors = console.err()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    disable = not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=disable, auto_refresh=not still) as progress:
        task = progress.add_task("", total=None)

        def step(work: str, done: int, total: int) -> None:
            progress.update(task, description=work, completed=done, total=total, refresh=still)

        yield step
