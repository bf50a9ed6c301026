"""flashir bench: systems side by side on this machine, at several lengths and on several targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options
from flashir.cli.alone import refuse_others

if TYPE_CHECKING:
    from flashir.bench.case import Grid
    from flashir.bench.draft import Draft
    from flashir.bench.record import Record
    from flashir.cli.meter import Step
    from flashir.ir import Graph

SYSTEMS = ("flash", "flash-quad", "transformer++")
SIZE = "small"
WRITTEN = {
    "report": "plots and every number; open it in a browser",
    "results": "every sample; `flashir bench --show` reads it",
}


def bench(
    ctx: typer.Context,
    systems: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SYSTEM ...",
            help=f"Zoo names, .fir files or checkpoint folders.  [default: {' '.join(SYSTEMS)}]",
        ),
    ] = None,
    settings: options.Settings = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Size of zoo models: tiny, small, base, large, pg19.  [default: {SIZE}]",
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    task: options.Task = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND:DEVICE",
            help="Where to run; repeat for more.  [default: onnx:cpu, or torch:cpu with --training]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    lengths: Annotated[
        str, typer.Option(metavar="N,N,..", help="Tokens a row.", rich_help_panel=options.WORK)
    ] = "512,1024,2048,4096",
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Rows.  [default: 1]", rich_help_panel=options.WORK)
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens of one batch instead, so that shorter rows come in more of them, as in the paper.",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    training: options.Training = False,
    rounds: Annotated[int, typer.Option(metavar="N", help="Samples of each case.", rich_help_panel=options.WORK)] = 7,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            help="How long a case has to compile, and for a sample.  [default: far longer than predicted]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    chunks: Annotated[
        str | None, typer.Option(metavar="N,N,..", help="Compare these chunk sizes.", rich_help_panel=options.CHOICES)
    ] = None,
    cumsum: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,..",
            help="Compare these ways of summing up chunk states: scan, matmul, native.",
            rich_help_panel=options.CHOICES,
        ),
    ] = None,
    dtype: options.ComputeType = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    published: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Predict a published table instead, and run nothing: lm is the paper's Table 12.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    show: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Show an earlier run again, and run nothing.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Where the results and the report go.  [default: bench/ in the cache]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure systems side by side: time, memory, how far from the roofline, and from what was predicted.

    Every case has a warm process of its own, and all are timed in turn, a sample a round. What does not fit the memory
    at hand is left out, and named. Every sample goes into one JSON file, with a report of plots beside it.

    Examples:
        flashir bench
        flashir bench flash transformer++ --size base --lengths 512,2048,8192 --target onnx:cpu --target torch:cpu
        flashir bench flash flash-quad performer -s depth=2 --training --target jax:cpu --tokens 8192
        flashir bench flash --lengths 4096 --chunks 64,128,256,512 --cumsum scan,matmul,native -o results/
        flashir bench --show results/bench-20261124-123355.json
        flashir bench --published lm
    """
    if published is not None:
        from flashir.cli.published import show_published

        refuse_others(ctx, "--published", "--json")
        show_published(published, as_json)
        return
    if show is not None:
        refuse_others(ctx, "--show", "--out", "--json")
        _show_again(show, out, as_json)
        return
    from flashir.bench.draft import Draft
    from flashir.bench.record import new_record
    from flashir.interrupts import kept
    from flashir.machine.profile import cache_folder, in_cache

    asked = {
        "systems": systems or list(SYSTEMS),
        "settings": settings or [],
        "size": size,
        "task": task,
        "targets": list(dict.fromkeys(target or ["torch:cpu" if training else "onnx:cpu"])),
        "lengths": lengths,
        "batch": batch,
        "tokens": tokens,
        "training": training,
        "chunks": chunks,
        "cumsum": cumsum,
        "dtype": dtype and dtype.value,
        "policy": policy.value,
        "rounds": rounds,
        "limit": limit,
    }
    grid = _grid(asked)
    draft = Draft(new_record(asked, tuple(grid.targets)), cache_folder() / "bench" if out is None else out)
    cache = in_cache() if out is None else nullcontext()
    with cache, kept(lambda: "what was measured until then is kept" if draft.measured else "nothing was measured yet"):
        _measure(grid, rounds, limit, draft)
        _finish(draft, as_json)


def _grid(asked: dict[str, Any]) -> Grid:
    """What was asked, checked. Raises SettingError with all that is wrong with it."""
    from flashir.bench.case import Grid
    from flashir.cli import source
    from flashir.errors import SettingError, gathered

    problems: list[str] = []
    numbers: dict[str, list[int]] = {}
    for name in ("lengths", "chunks"):
        if asked[name] is not None:
            with gathered(problems):
                numbers[name] = list(dict.fromkeys(source.whole_numbers(f"--{name}", asked[name], least=1)))
    for name in ("rounds", "tokens", "limit"):
        if asked[name] is not None and asked[name] < 1:
            problems.append(f"--{name} must be a whole number from 1, got {asked[name]}")
    with gathered(problems):
        source.only_one("--batch", asked["batch"], "--tokens", asked["tokens"])
    grid = Grid(
        _models(asked, problems),
        asked["targets"],
        numbers.get("lengths", ()),
        (asked["batch"] if asked["batch"] is not None else 1) if asked["tokens"] is None else None,
        asked["tokens"] or 0,
        asked["training"],
        numbers.get("chunks", ()),
        [name.strip() for name in asked["cumsum"].split(",")] if asked["cumsum"] is not None else (),
        asked["dtype"],
        asked["policy"],
    )
    problems += grid.problems()
    if problems:
        raise SettingError(problems)
    return grid


def _models(asked: dict[str, Any], problems: list[str]) -> dict[str, Graph]:
    """The systems by name; settings are for those of the zoo, where there are any."""
    from flashir.cli import source
    from flashir.errors import gathered

    zoo = source.zoo_names()
    words = dict.fromkeys(asked["systems"])
    only_files = not any(word in zoo for word in words)
    if not only_files:
        asked["size"] = asked["size"] or SIZE
    given = (asked["settings"], asked["size"], asked["task"])
    found = {}
    for word in words:
        with gathered(problems):
            found[word] = source.find(word, *(given if word in zoo or only_files else ())).model
    return found


def _measure(grid: Grid, rounds: int, limit: int | None, draft: Draft) -> None:
    """Fill the draft; an interrupted one has what there was. KeyboardInterrupt where there was nothing."""
    from functools import partial

    from flashir.bench.process import Process
    from flashir.bench.run import Bench

    try:
        with _progress() as step:
            run = Bench(grid.cases(step), rounds, step, draft.follow, partial(Process, limit=limit))
            with draft.kept(run.rows):
                run.run()
    except KeyboardInterrupt:
        if not draft.measured:
            raise


@contextmanager
def _progress() -> Iterator[Step]:
    """On stderr: a bar on a terminal, a line for every step elsewhere."""
    from flashir.cli.meter import meter

    if console.err().is_terminal:
        with meter(still=True) as step:  # nothing is drawn while a sample is taken
            yield step
    else:
        yield lambda what, done, of: console.note(f"{what} ({done + 1} of {of})")


def _finish(draft: Draft, as_json: bool) -> None:
    """Write the report, and print what it and the results say, whether they could be written or not.

    Exit 1 where a case failed, 130 interrupted. Raises ArtefactError where a file is not written.
    """
    from flashir.cli.bench_table import show_record
    from flashir.errors import ArtefactError

    record, lost, report = draft.record, draft.lost, draft.path.with_suffix(".html")
    written = {} if lost else {"results": draft.path}
    try:
        _write_page(record, report)
        written["report"] = report
    except ArtefactError as error:
        lost = lost or error
    if as_json:
        files = {name: str(written[name]) if name in written else None for name in WRITTEN}
        console.emit({**record.as_dict(), **files})
    else:
        show_record(record)
        console.say()
        for name in written:
            console.say(f"{written[name]}  {WRITTEN[name]}")
    if lost is not None:
        raise lost
    if not record.complete:
        raise KeyboardInterrupt
    failed = sum(bool(row.failed) for row in record.rows)
    if failed:
        console.note(f"{failed} of {len(record.rows)} cases failed", "bold red")
        raise typer.Exit(1)


def _show_again(file: Path, out: Path | None, as_json: bool) -> None:
    """An earlier run: its table, or its JSON; its report where a folder is given for it."""
    from flashir.bench.record import read_record
    from flashir.cli.bench_table import show_record

    record = read_record(file)
    report = None if out is None else out / f"{record.name}.html"
    if report is not None:
        _write_page(record, report)
    if as_json:
        console.emit({**record.as_dict(), "results": str(file), "report": report and str(report)})
        return
    show_record(record)
    if report is not None:
        console.say()
        console.say(f"{report}  plots and every number; open it in a browser")


def _write_page(record: Record, file: Path) -> None:
    from flashir.cli.bench_page import page
    from flashir.files.atomic import atomic_write

    content = page(record).encode()
    atomic_write(file, lambda stream: stream.write(content))
