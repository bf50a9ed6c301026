"""flashir check: whether targets compute what the float64 interpreter computes."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.backends.protocols import Gradients
    from flashir.cli.parity import Row
    from flashir.cli.source import Source
    from flashir.cli.weights import Weights
    from flashir.execution.compile import Runnable


class Scale(StrEnum):
    """How large fresh parameters are."""

    UNIT = "unit"
    INIT = "init"


def check(
    ctx: typer.Context,
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
            help="Tokens a row. Without: 1, and those around one chunk C and after three: C-1, C, C+1, 3C+2, "
            "as far as the model takes them.",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,..", help="Rows.  [default: 1,2, or as the model fixes it]", rich_help_panel=options.WORK
        ),
    ] = None,
    grad: Annotated[
        bool,
        typer.Option(
            "--grad",
            help="Gradients of every parameter too, at the longest of these lengths, or at all that are given.",
            rich_help_panel=options.WORK,
        ),
    ] = False,
    seq_len: options.SeqLen = 4096,
    params: options.Params = None,
    strict: options.Strict = True,
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
    choose: options.Choose = None,
    dtype: options.ComputeType = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    as_json: options.Json = False,
) -> None:
    """Compare a model on one or more targets with the float64 interpreter; exit 1 where they differ.

    The chunk is the one planned for --seq-len, and the lengths are those at which chunks begin and end. For large
    models the longest are left out, and named; give --lengths to insist. Several targets run one model, with the
    chunk of the first. With --grad, the gradients of a random projection of the logits are compared with the
    interpreter's, along a random direction of each parameter, and with every element of the first target's.

    An export is compared with the parameters inside it, read back, or with those of --params or --seed. It is said
    which weights both sides had, and at which batches and lengths.

    Examples:
        flashir check flash --size tiny
        flashir check model.fir --target onnx:cpu --target torch:cpu
        flashir check flash --size tiny --grad --target torch:cpu --target jax:cpu
        flashir check flash --size base --chunk 64 --lengths 1,64,200
        flashir check out/
    """
    from flashir.cli import parity, source
    from flashir.cli.alone import refuse_unused
    from flashir.cli.gradients import Comparison
    from flashir.cli.meter import meter
    from flashir.transforms.settle_choices import settle

    wanted = None if lengths is None else source.whole_numbers("--lengths", lengths, least=0)
    rows_of = None if batches is None else source.whole_numbers("--batches", batches, least=0)
    own = source.read_choices(choose, chunk=chunk, cumsum=cumsum)
    choices = {**own, "dtype": dtype, "policy": policy.value, "seq_len": seq_len}
    choices["rechunk"] = rechunk
    names = list(dict.fromkeys(target or ["onnx:cpu"]))
    forward_only = _forward_only(names) if grad else []
    rows: list[Row] = []
    left_out: set[int] = set()
    settled: int | None = None
    slopes: Comparison | None = None
    with meter() as step:
        for name in names:
            found = source.find(model, settings, size, task, exports=name)
            refuse_unused(ctx, found, "seq_len")
            if settled is not None:
                found = replace(found, model=settle(found.model, {"chunk": settled}))
            weights = _weights(found, found.weights(params, seed, strict, reference=True), scale)
            step(f"compiling for {name}", 0, 1)
            run, arrays = _compiled(found, name, weights, choices)
            settled = run.plan.chunk
            call = _gradients(found, run, arrays) if grad and name not in forward_only else None
            batches_of = rows_of or parity.batches(run.model)
            cases, too_long = parity.cases(run.plan, wanted, batches_of)
            left_out.update(too_long)
            rows += parity.compare(run, arrays, cases, found.tolerance(run.model), step)
            if call is not None:
                slopes = slopes or Comparison(arrays, wanted, max(batches_of))
                rows += slopes.rows(run, call, step)
    failed = sum(not row.ok for row in rows)
    made = {"model": model, "ok": not failed, "weights": weights.as_dict(), "rows": [row.as_dict() for row in rows]}
    if not console.answer({**made, "left_out": sorted(left_out), "forward_only": forward_only}, as_json):
        console.say(f"{model} against the float64 interpreter, both with {weights}", "bold")
        _show(rows, sorted(left_out), forward_only)
    if failed:
        console.note(f"{failed} of {len(rows)} comparisons failed", "bold red")
        raise typer.Exit(1)


def _forward_only(names: list[str]) -> list[str]:
    """The targets without gradients. Raises TargetError where all are: nothing could be compared then."""
    from flashir.backends.protocols import Differentiable
    from flashir.backends.registry import backend_of, having
    from flashir.errors import TargetError, either

    found = [name for name in names if not isinstance(backend_of(name), Differentiable)]
    if found == names:
        raise TargetError(
            f"--grad needs a target that has gradients, and {' and '.join(names)} runs forward only",
            hint=either(f"--target {name}:cpu" for name in having(Differentiable)),
        )
    return found


def _gradients(found: Source, run: Runnable, params: Any) -> Gradients:
    from flashir.errors import SettingError
    from flashir.execution.gradients import gradients

    if found.run is not None:
        raise SettingError("--grad needs a model: an export only runs forward", where=found.word)
    return gradients(run.model, run.plan.target, params)


def _weights(found: Source, weights: Weights, scale: Scale | None) -> Weights:
    """What both sides of a comparison have. Raises SettingError where --scale is given for what has its own."""
    from flashir.errors import SettingError

    own = weights.source != "random" or found.run is not None
    if scale is not None and own:
        raise SettingError("--scale is for fresh parameters, and this model has its own")
    return weights if own else replace(weights, scale=(scale or Scale.UNIT).value)


def _compiled(found: Source, name: str, weights: Weights, choices: dict[str, Any]) -> tuple[Runnable, Any]:
    """The model on a target, and the parameters that it has there."""
    from flashir.execution.compile import Runnable, compile
    from flashir.planning import plan as planning

    if found.run is not None:
        made = planning.plan(found.model, name, seq_len=choices["seq_len"], measured=False)
        return Runnable(made, found.run), weights.of(found.model)
    if weights.arrays is not None:
        run = compile(found.model, name, weights.arrays, **choices)
        return run, weights.rechunked(choices.get("chunk"), choices["rechunk"]).of(run.model)
    rest = {key: value for key, value in choices.items() if key != "rechunk"}
    graph = planning.plan(found.model, name, **rest).graph
    params = weights.of(graph)
    return compile(graph, name, params), params


def _show(rows: list[Row], left_out: list[int], forward_only: list[str]) -> None:
    several = len({(row.what, row.against) for row in rows}) > 1
    columns = ("target", *(("compared",) if several else ()), "batch", "length", "error", "allowed", "")
    table = console.table(*columns, right=("batch", "length", "error"))
    for row in rows:
        error = "-" if row.error is None else f"{row.error:.1e}"
        verdict = "ok" if row.ok else row.problem or "FAILED"
        compared = (f"{row.what} against {row.against}",) if several else ()
        cells = (row.target, *compared, str(row.batch), str(row.length), error, f"{row.limit:.0e}")
        worst = f"{verdict}, worst {row.parameter}" if row.parameter else verdict
        table.add_row(*cells, worst, style=None if row.ok else "bold red")
    console.show(table)
    if left_out:
        lengths = ", ".join(map(str, left_out))
        console.say(f"left out, as the interpreter takes long for this model: {lengths} (--lengths insists)", "dim")
    if forward_only:
        console.say(f"no gradients of {', '.join(forward_only)}, which runs forward only", "dim")
