"""flashir bench: compare systems on this machine, at several lengths and on several targets."""

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
    from flashir.bench.run import Bench
    from flashir.cli.meter import Step
    from flashir.ir import Graph

SYSTEMS = ("flash", "flash-quad", "transformer++")
SIZE = "small"
WRITTEN = {
    "report": "plots and all numbers; open it in a browser",
    "results": "all samples; `flashir bench --show` reads it",
}


def bench(
    ctx: typer.Context,
    systems: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SYSTEM ...",
            help=f"Built-in models, .fir files or checkpoint folders.  [default: {' '.join(SYSTEMS)}]",
        ),
    ] = None,
    settings: options.Settings = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Size of built-in models: tiny, small, base, large, pg19.  [default: {SIZE}]",
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    task: options.Task = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND:DEVICE",
            help="Target; repeatable.  [default: onnx:cpu, or torch:cpu with --training]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    lengths: Annotated[
        str, typer.Option(metavar="N,N,..", help="Tokens per row.", rich_help_panel=options.WORK)
    ] = "512,1024,2048,4096",
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Rows.  [default: 1]", rich_help_panel=options.WORK)
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens per batch instead of --batch, as in the paper: shorter rows, more of them.",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    training: options.Training = False,
    rounds: Annotated[int, typer.Option(metavar="N", help="Samples per case.", rich_help_panel=options.WORK)] = 7,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            help="Time limit of a compilation and of a sample.  [default: far above the prediction]",
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
            help="Compare these strategies of the running sum: scan, matmul, native.",
            rich_help_panel=options.CHOICES,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="NAME,..", help="Compare these compute dtypes.", rich_help_panel=options.CHOICES),
    ] = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    published: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only predict a published table: lm is Table 12 of the paper.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    show: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Only show an earlier run.", rich_help_panel=options.OUTPUT),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Folder for the results and the report.  [default: bench/ in the cache]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare systems: time, memory, fraction of the roofline, and error of the prediction.

    Every case has its own warm process. All cases are timed in turn, one sample per round. Cases that do not fit in
    memory are listed and skipped. Results are written as one JSON file with all samples, and a report with plots.

    Examples:
        flashir bench
        flashir bench flash transformer++ --size base --lengths 512,2048,8192 --target onnx:cpu --target torch:cpu
        flashir bench flash flash-quad performer -s depth=2 --training --target jax:cpu --tokens 8192
        flashir bench flash --lengths 4096 --chunks 64,128,256,512 --cumsum scan,matmul,native -o results/
        flashir bench flash --target onnx:cpu --target openvino:cpu --dtype float32,bfloat16
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
    from flashir.interrupts import on_interrupt
    from flashir.machine.profile import cache_folder, in_cache

    arguments = {
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
        "dtype": dtype,
        "policy": policy.value,
        "rounds": rounds,
        "limit": limit,
    }
    grid = _grid(arguments)
    draft = Draft(new_record(arguments, tuple(grid.targets)), cache_folder() / "bench" if out is None else out)
    cache = in_cache() if out is None else nullcontext()
    with cache, on_interrupt(lambda: "measurements so far are kept" if draft.measured else "nothing was measured yet"):
        _measure(grid, rounds, limit, draft)
        _finish(draft, as_json)


def _grid(arguments: dict[str, Any]) -> Grid:
    """The validated grid of cases. Raises SettingError with all problems of the options."""
    from flashir.bench.case import Grid
    from flashir.cli import source
    from flashir.errors import SettingError, gathered

    problems: list[str] = []
    numbers: dict[str, list[int]] = {}
    for name in ("lengths", "chunks"):
        if arguments[name] is not None:
            with gathered(problems):
                numbers[name] = list(dict.fromkeys(source.whole_numbers(f"--{name}", arguments[name], least=1)))
    for name in ("rounds", "tokens", "limit"):
        if arguments[name] is not None and arguments[name] < 1:
            problems.append(f"--{name} must be a whole number from 1, got {arguments[name]}")
    with gathered(problems):
        source.only_one("--batch", arguments["batch"], "--tokens", arguments["tokens"])
    grid = Grid(
        _models(arguments, problems),
        arguments["targets"],
        numbers.get("lengths", ()),
        (arguments["batch"] if arguments["batch"] is not None else 1) if arguments["tokens"] is None else None,
        arguments["tokens"] or 0,
        arguments["training"],
        numbers.get("chunks", ()),
        _names(arguments["cumsum"]),
        _names(arguments["dtype"]) or (None,),
        arguments["policy"],
    )
    problems += grid.problems()
    if problems:
        raise SettingError(problems)
    return grid


def _names(text: str | None) -> list[str]:
    """The names in a list with commas; none if it is not given."""
    return [] if text is None else list(dict.fromkeys(name.strip() for name in text.split(",")))


def _models(arguments: dict[str, Any], problems: list[str]) -> dict[str, Graph]:
    """The systems by name. Settings apply to the built-in models, if there are any."""
    from flashir.cli import source
    from flashir.errors import gathered
    from flashir.models.load import model_names

    zoo = model_names()
    words = dict.fromkeys(arguments["systems"])
    only_files = not any(word in zoo for word in words)
    if not only_files:
        arguments["size"] = arguments["size"] or SIZE
    settings = (arguments["settings"], arguments["size"], arguments["task"])
    models = {}
    for word in words:
        with gathered(problems):
            models[word] = source.find(word, *(settings if word in zoo or only_files else ())).model
    return models


def _measure(grid: Grid, rounds: int, limit: int | None, draft: Draft) -> None:
    """Fill the draft, also if interrupted. Raises KeyboardInterrupt if nothing was measured."""
    from functools import partial

    from flashir.bench.process import Process
    from flashir.bench.run import Bench

    try:
        with _progress() as step:
            run = Bench(grid.cases(step), rounds, step, draft.follow, partial(Process, limit=limit))
            _tell_forecast(run)
            with draft.recording(run.rows):
                run.run()
    except KeyboardInterrupt:
        if not draft.measured:
            raise


def _tell_forecast(run: Bench) -> None:
    """Say how long the samples will take, and what shortens it."""
    from flashir.cli.forecast import tell

    cases = [case for case in run.cases if not case.row.problem]
    each_ms = sum(case.row.predicted_ms or 0.0 for case in cases)
    work = f"{console.counted(len(cases), 'case')}, {console.counted(run.rounds, 'sample')} of each"
    tell(work, run.rounds * each_ms / 1e3, "fewer --rounds, shorter --lengths or a smaller --size shorten it")


@contextmanager
def _progress() -> Iterator[Step]:
    """Progress on stderr: a bar on a terminal, a line per step elsewhere."""
    from flashir.cli.meter import meter

    if console.err().is_terminal:
        with meter(still=True) as step:  # do not draw during a sample
            yield step
    else:
        yield lambda what, done, total: console.note(f"{what} ({done + 1} of {total})")


def _finish(draft: Draft, as_json: bool) -> None:
    """Write the report and print the results, also if files cannot be written.

    Exits with 1 if a case failed and with 130 if interrupted. Raises ArtefactError if a file cannot be written.
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
    """Show an earlier run as a table or JSON, and write its report if `out` is given."""
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
        console.say(f"{report}  {WRITTEN['report']}")


def _write_page(record: Record, file: Path) -> None:
    from flashir.cli.bench_page import page
    from flashir.files.atomic import atomic_write

    content = page(record).encode()
    atomic_write(file, lambda stream: stream.write(content))
