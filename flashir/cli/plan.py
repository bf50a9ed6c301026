"""flashir plan: choose the chunk, tile and cumulative sum for a device by its cost model."""

from __future__ import annotations

from typing import Annotated

import typer

from flashir.cli import console, options


def plan(
    ctx: typer.Context,
    model: options.Model,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    output: options.Outputs = None,
    target: options.Target = "onnx:cpu",
    batch: options.Batch = 1,
    seq_len: options.SeqLen = 4096,
    training: options.Training = False,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    choose: options.Choose = None,
    dtype: options.ComputeTypes = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Largest relative increase in perplexity to expect of a narrow --dtype.  [default: 0.01 for several]",
            rich_help_panel=options.CHOICES,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Choose the chunk and the cumulative sum for a device, and predict time and memory.

    The backend of the target need not be installed, nor the device available. Measurements by `flashir tune` on this
    machine are used if there are any.

    Examples:
        flashir plan flash --size base --seq-len 4096
        flashir plan model.fir --target jax:tpu-v4x32 --batch 32 --seq-len 8192 --training --json
        flashir plan flash -s vocab=256 --chunk 256 --policy fastest
        flashir plan run/ --target openvino:cpu --dtype auto
    """
    from flashir.cli import source
    from flashir.cli.alone import refuse_unused
    from flashir.cli.candidates import show_plan
    from flashir.planning import plan as planning

    loaded = source.find(model, settings, size, task, outputs=output)
    refuse_unused(ctx, loaded, "batch", "seq_len")
    planned = planning.plan(
        loaded.model,
        target,
        batch,
        seq_len,
        training,
        policy.value,
        dtype=dtype,
        tolerance=tolerance,
        params=None if rechunk and chunk is not None else loaded.params,
        **source.read_choices(choose, chunk=chunk, cumsum=cumsum),
    )
    if not console.answer({**planned.as_dict(), "model": model}, as_json):
        show_plan(planned, model)
