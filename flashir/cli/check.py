"""flashir check: compare targets with the float64 interpreter."""

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
    """The scale of random parameters."""

    UNIT = "unit"
    INIT = "init"


def check(
    ctx: typer.Context,
    model: options.ModelOrExport,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    output: options.Outputs = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND:DEVICE",
            help="Target to compare; repeat for more.  [default: onnx:cpu]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,..",
            help="Tokens per row. By default 1, C-1, C, C+1 and 3C+2, where C is the chunk, as far as the model "
            "allows.",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,..",
            help="Rows per batch.  [default: 1,2, or the batch of the model]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    grad: Annotated[
        bool,
        typer.Option(
            "--grad",
            help="Compare the gradients of every parameter too, at the longest length, or at all --lengths.",
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
            help="Scale of random parameters: unit, at which every term matters, or init, as in training.  "
            "[default: unit]",
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
    """Compare a model on one or more targets with the float64 interpreter; exit 1 if they differ.

    The chunk is the one planned for --seq-len, and the lengths are those at which chunks begin and end. For large
    models the longest lengths are left out, with a note; --lengths forces them. Several targets run the same model,
    with the chunk of the first. --grad compares the gradients of a random projection of the logits with those of the
    interpreter, along a random direction per parameter, and with every element of those of the first target.

    The interpreter runs an export with the parameters stored in it, or with those of --params or --seed. The output
    names the weights, the batches and the lengths.

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
            loaded = source.find(model, settings, size, task, outputs=output, exports=name)
            refuse_unused(ctx, loaded, "seq_len")
            if settled is not None:
                loaded = replace(loaded, model=settle(loaded.model, {"chunk": settled}))
            weights = _weights(loaded, loaded.weights(params, seed, strict, reference=True), scale)
            step(f"compiling for {name}", 0, 1)
            run, arrays = _compiled(loaded, name, weights, choices)
            settled = run.plan.chunk
            call = _gradients(loaded, run, arrays) if grad and name not in forward_only else None
            batches_of = rows_of or parity.batches(run.model)
            cases, too_long = parity.cases(run.plan, wanted, batches_of)
            left_out.update(too_long)
            rows += parity.compare(run, arrays, cases, loaded.tolerance(run.model), step)
            if call is not None:
                slopes = slopes or Comparison(arrays, wanted, max(batches_of))
                rows += slopes.rows(run, call, step)
    failed = sum(not row.ok for row in rows)
    fields = {"model": model, "ok": not failed, "weights": weights.as_dict(), "rows": [row.as_dict() for row in rows]}
    if not console.answer({**fields, "left_out": sorted(left_out), "forward_only": forward_only}, as_json):
        console.say(f"{model} against the float64 interpreter, both with {weights}", "bold")
        _show(rows, sorted(left_out), forward_only)
    if failed:
        console.note(f"{failed} of {len(rows)} comparisons failed", "bold red")
        raise typer.Exit(1)


def _forward_only(names: list[str]) -> list[str]:
    """The targets without gradients. Raises TargetError if no target has gradients."""
    from flashir.backends.protocols import Differentiable
    from flashir.backends.registry import backend_of, having
    from flashir.errors import TargetError, either

    forward_only = [name for name in names if not isinstance(backend_of(name), Differentiable)]
    if forward_only == names:
        raise TargetError(
            f"--grad needs a target that has gradients, and {' and '.join(names)} runs forward only",
            hint=either(f"--target {name}:cpu" for name in having(Differentiable)),
        )
    return forward_only


def _gradients(loaded: Source, run: Runnable, params: Any) -> Gradients:
    from flashir.errors import SettingError
    from flashir.execution.gradients import gradients

    if loaded.run is not None:
        raise SettingError("--grad needs a model: an export runs forward only", where=loaded.word)
    return gradients(run.model, run.plan.target, params)


def _weights(loaded: Source, weights: Weights, scale: Scale | None) -> Weights:
    """The weights of both sides of a comparison. Raises SettingError for --scale on a model with parameters."""
    from flashir.errors import SettingError

    own = weights.source != "random" or loaded.run is not None
    if scale is not None and own:
        raise SettingError("--scale is for random parameters, and this model has its own")
    return weights if own else replace(weights, scale=(scale or Scale.UNIT).value)


def _compiled(loaded: Source, name: str, weights: Weights, choices: dict[str, Any]) -> tuple[Runnable, Any]:
    """The model compiled for a target, and its parameters."""
    from flashir.execution.compile import Runnable, compile
    from flashir.planning import plan as planning

    if loaded.run is not None:
        settled_plan = planning.plan(loaded.model, name, seq_len=choices["seq_len"], measured=False)
        return Runnable(settled_plan, loaded.run), weights.of(loaded.model)
    if weights.arrays is not None:
        run = compile(loaded.model, name, weights.arrays, **choices)
        return run, weights.rechunked(choices.get("chunk"), choices["rechunk"]).of(run.model)
    rest = {key: value for key, value in choices.items() if key != "rechunk"}
    graph = planning.plan(loaded.model, name, **rest).graph
    params = weights.of(graph)
    return compile(graph, name, params), params


def _show(rows: list[Row], left_out: list[int], forward_only: list[str]) -> None:
    several = len({(row.quantity, row.against) for row in rows}) > 1
    columns = ("target", *(("compared",) if several else ()), "batch", "length", "error", "tolerance", "")
    table = console.table(*columns, right=("batch", "length", "error"))
    for row in rows:
        error = "-" if row.error is None else f"{row.error:.1e}"
        verdict = "ok" if row.ok else row.problem or "FAILED"
        compared = (f"{row.quantity} against {row.against}",) if several else ()
        cells = (row.target, *compared, str(row.batch), str(row.length), error, f"{row.limit:.0e}")
        worst = f"{verdict}, worst {row.parameter}" if row.parameter else verdict
        table.add_row(*cells, worst, style=None if row.ok else "bold red")
    console.show(table)
    if left_out:
        lengths = ", ".join(map(str, left_out))
        console.say(
            f"left out, because the interpreter is slow for this model: {lengths} (--lengths forces them)", "dim"
        )
    if forward_only:
        console.say(f"no gradients of {', '.join(forward_only)}, which runs forward only", "dim")
