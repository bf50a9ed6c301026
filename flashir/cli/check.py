"""flashir check: whether targets compute what the float64 interpreter computes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.parity import Row
    from flashir.cli.source import Source
    from flashir.compiler import Runnable


class Scale(StrEnum):
    """How large fresh parameters are."""

    UNIT = "unit"
    INIT = "init"


def check(
    model: options.ModelOrExport,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND:DEVICE",
            help="Where to run; repeat for more.  [default: onnx:cpu]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,..",
            help="Tokens a row. Without: 1, and those around one chunk C and after three: C-1, C, C+1, 3C+2.",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    batches: Annotated[str, typer.Option(metavar="N,N,..", help="Rows.", rich_help_panel=options.WORK)] = "1,2",
    seq_len: options.SeqLen = 4096,
    params: options.Params = None,
    seed: options.Seed = None,
    scale: Annotated[
        Scale | None,
        typer.Option(
            help="Fresh parameters: unit, at which every term matters, or as training starts.  [default: unit]",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    dtype: options.ComputeType = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    as_json: options.Json = False,
) -> None:
    """Compare a model on one or more targets with the float64 interpreter; exit 1 where they differ.

    The chunk is the one planned for --seq-len, and the lengths are those at which chunks begin and end. For large
    models the longest are left out, and named; give --lengths to insist.

    Examples:
        flashir check flash --size tiny
        flashir check model.fir --target onnx:cpu --target torch:cpu
        flashir check flash --size base --chunk 64 --lengths 1,64,200
        flashir check out/ --seed 0
    """
    from flashir.cli import parity, source
    from flashir.cli.meter import meter

    wanted = None if lengths is None else source.whole_numbers("--lengths", lengths, least=0)
    rows_of = source.whole_numbers("--batches", batches, least=0)
    choices = {"chunk": chunk, "cumsum": cumsum, "dtype": dtype, "policy": policy.value, "seq_len": seq_len}
    choices["rechunk"] = rechunk
    names = list(dict.fromkeys(target or ["onnx:cpu"]))
    rows: list[Row] = []
    left_out: set[int] = set()
    with meter() as step:
        for name in names:
            found = source.find(model, settings, size, task, exports=name)
            step(f"compiling for {name}", 0, 1)
            run, arrays = _compiled(found, name, found.parameters(params, seed), seed or 0, scale, choices)
            cases, too_long = parity.cases(run.plan, wanted, rows_of)
            left_out.update(too_long)
            rows += parity.compare(run, arrays, cases, step)
    failed = sum(not row.ok for row in rows)
    if as_json:
        console.emit(
            {"model": model, "ok": not failed, "rows": [row.as_dict() for row in rows], "left_out": sorted(left_out)}
        )
    else:
        _show(rows, sorted(left_out))
    if failed:
        console.note(f"{failed} of {len(rows)} comparisons failed", "bold red")
        raise typer.Exit(1)


def _compiled(
    found: Source, name: str, params: Any, seed: int, scale: Scale | None, choices: dict[str, Any]
) -> tuple[Runnable, Any]:
    """The model on a target, and the parameters that it has there."""
    from flashir import planning
    from flashir.compiler import Runnable, compile
    from flashir.errors import SettingError
    from flashir.parameters import checked, init, unit

    if scale is not None and (params is not None or found.run is not None):
        raise SettingError("--scale is for fresh parameters, and this model has its own")
    if found.run is not None:
        found.refuse_choices(choices)
        made = planning.plan(found.model, name, seq_len=choices["seq_len"], measured=False)
        return Runnable(made, found.run), checked(found.model, init(found.model, seed) if params is None else params)
    if params is not None:
        run = compile(found.model, name, params, **choices)
        return run, checked(run.model, found.rechunked(params, choices["chunk"], choices["rechunk"]))
    rest = {key: value for key, value in choices.items() if key != "rechunk"}
    graph = planning.plan(found.model, name, **rest).graph
    params = init(graph, seed) if scale is Scale.INIT else unit(graph, seed)
    return compile(graph, name, params), params


def _show(rows: list[Row], left_out: list[int]) -> None:
    table = console.table("target", "batch", "length", "error", "allowed", "", right=("batch", "length", "error"))
    for row in rows:
        error = "-" if row.error is None else f"{row.error:.1e}"
        verdict = "ok" if row.ok else row.problem or "FAILED"
        style = None if row.ok else "bold red"
        table.add_row(row.target, str(row.batch), str(row.length), error, f"{row.limit:.0e}", verdict, style=style)
    console.show(table)
    if left_out:
        several = ", ".join(map(str, left_out))
        console.say(f"left out, as the interpreter takes long for this model: {several} (--lengths insists)", "dim")
