"""flashir tune: choose the chunk, tile and cumulative sum for a device by measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashir.cli import console, options
from flashir.cli.alone import refuse_others, refuse_unused

STORE = "Store"


def tune(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A built-in model such as flash, a .fir file, or a checkpoint folder."),
    ] = None,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    output: options.Outputs = None,
    target: options.Target = "onnx:cpu",
    batch: options.Batch = 1,
    seq_len: options.SeqLen = 4096,
    training: options.Training = False,
    budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Stop starting measurements after SECONDS.", rich_help_panel=options.WORK),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Re-measure known candidates.", rich_help_panel=options.WORK)
    ] = False,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    choose: options.Choose = None,
    dtype: options.ComputeTypes = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write all stored measurements to a file.", rich_help_panel=STORE),
    ] = None,
    import_: Annotated[
        list[Path] | None,
        typer.Option(
            "--import",
            metavar="FILE.json",
            help="Add the measurements of a file, such as a colleague's; repeatable.",
            rich_help_panel=STORE,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Choose the chunk and the cumulative sum by measuring on an available device.

    Candidates are measured in the order of the cost model, interleaved: a third of them, but at least three, and one
    more if it would be chosen. The first candidate of each chunk is verified against the reference, the others against
    the first; with --training also their loss and gradients. Measurements are stored at once, so Ctrl-C loses none, and
    `plan` uses them. The most certain measurement of a candidate counts. If the stored ones are certain enough, nothing
    is measured without --again.

    Examples:
        flashir tune flash --size small --seq-len 4096
        flashir tune model.fir --target onnx:cpu --budget 60 --json
        flashir tune --export measured.json
        flashir tune --import hers.json --import his.json
    """
    if export is not None:
        _exported(ctx, export, as_json)
        return
    if import_:
        _imported(ctx, import_, as_json)
        return
    from flashir.autotune.tune import tune as measure
    from flashir.cli import progress, source
    from flashir.cli.candidates import show_plan
    from flashir.errors import SettingError
    from flashir.planning.plan import by_hand

    if model is None:
        raise SettingError("MODEL is missing", hint="only --export and --import work without MODEL")
    loaded = source.find(model, settings, size, task, outputs=output)
    refuse_unused(ctx, loaded, "batch", "seq_len")
    choices = source.read_choices(choose, chunk=chunk, cumsum=cumsum)
    graph = by_hand(loaded.model, choices, None, locked=loaded.params is not None and not rechunk)
    tuned = measure(
        graph,
        target,
        batch,
        seq_len,
        training,
        policy.value,
        dtype=dtype,
        budget_s=budget,
        again=again,
        progress=progress.progress(),
    )
    if not console.answer({**tuned.as_dict(), "model": model}, as_json):
        show_plan(tuned, model)


def _exported(ctx: typer.Context, file: Path, as_json: bool) -> None:
    """Write the store to a file."""
    from flashir.planning.measurements.exchange import export_json

    refuse_others(ctx, "--export", "--json")
    count = export_json(file)
    if not console.answer({"file": str(file), "measurements": count}, as_json):
        console.say(f"{count} measurements written to {file}")


def _imported(ctx: typer.Context, files: list[Path], as_json: bool) -> None:
    """Add the measurements of files, all or none."""
    from flashir.planning.measurements.exchange import import_json

    refuse_others(ctx, "--import", "--json")
    count = import_json(*files)
    if not console.answer({"file": str(files[0]), "files": [*map(str, files)], "measurements": count}, as_json):
        console.say(f"{count} measurements added from {', '.join(map(str, files))}")
