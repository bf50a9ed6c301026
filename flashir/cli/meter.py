"""Progress of long work, on stderr: a bar on a terminal, nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from flashir.cli import console

Step = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@contextmanager
def meter(*, still: bool = False) -> Iterator[Step]:
    """A bar that the function moves: `step("measuring", 3, 25)`; a `still` one is drawn then and never in between."""
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

        def step(what: str, done: int, of: int) -> None:
            progress.update(task, description=what, completed=done, total=of, refresh=still)

        yield step
