"""flashir run: run a model on text or token ids."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.source import Source
    from flashir.cli.weights import Weights
    from flashir.execution.compile import Runnable
    from flashir.ir import Graph
    from flashir.train.data import Tokenizer

QUICK = 1.0  # seconds; a shorter run is repeated, because the first run is slower
REPEATS = 3


def run(
    ctx: typer.Context,
    model: options.ModelOrExport,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    output: options.Outputs = None,
    target: options.Target = "onnx:cpu",
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text for the tokenizer of the model.  [default: standard input]",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npy", help="Token ids [t] or [b, t] instead.", rich_help_panel=options.DATA),
    ] = None,
    segment_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            help="Segment ids, for a model with segments.  [default: each row is one document]",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            help="True for tokens and False for padding, for a model with a mask.  [default: all True]",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    offset: Annotated[
        int, typer.Option(metavar="N", min=0, help="Skip the first N tokens.", rich_help_panel=options.DATA)
    ] = 0,
    length: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Take at most N tokens.", rich_help_panel=options.DATA)
    ] = None,
    tokenizer: options.Tokenizer = None,
    special_tokens: options.SpecialTokens = None,
    params: options.Params = None,
    strict: options.Strict = True,
    seed: options.Seed = None,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    choose: options.Choose = None,
    dtype: options.ComputeTypes = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare with the float64 interpreter. For an export it takes the stored parameters, or those of "
            "--params or --seed.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE.npy",
            help="Write the first result, such as the logits; with --output, that result.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run a model or an export, and report its speed and how well it predicts the text.

    For results that are not logits, it reports shapes and statistics. An export has its parameters inside; --verify can
    compare it with others. A model that was trained on labels says which it predicts.

    Runs, checkpoints and their exports have a tokenizer. Without one, and with a vocabulary of 256, tokens are the
    bytes of the text. The loss is the next-token loss of causal models.

    Examples:
        flashir run flash --size tiny --text README.md --verify
        cat book.txt | flashir run out/ --length 4096
        flashir run checkpoint/ --ids tokens.npy -o logits.npy
    """
    import numpy as np

    from flashir.cli import report, source, tokens
    from flashir.cli.alone import refuse_unused
    from flashir.files.atomic import atomic_write

    own = source.read_choices(choose, chunk=chunk, cumsum=cumsum)
    choices = {**own, "dtype": dtype, "policy": policy.value, "rechunk": rechunk}
    loaded = source.find(model, settings, size, task, outputs=output, exports=target)
    refuse_unused(ctx, loaded)
    source.only_one("--text", text, "--ids", ids)
    weights = loaded.weights(params, seed, strict, reference=verify)
    known: Tokenizer | None
    if ids is None:
        known = tokens.reader_of(loaded, tokenizer).reads(tokens.reading_of(loaded, None, special_tokens))
        whole = tokens.text_ids(known, text)
    else:
        known, whole = _reader_if_any(loaded, tokenizer), tokens.read_array(ids)
    input_ids = tokens.cut(whole, offset, length)
    files = {name: file for name, file in (("segment_ids", segment_ids), ("mask", mask)) if file is not None}
    beside = {name: tokens.cut(tokens.read_array(file), offset, length) for name, file in files.items()}
    batch, width = (*input_ids.shape, 1)[:2]
    compiled = _compiled(loaded, target, weights, {**choices, "batch": max(1, batch), "seq_len": max(1, width)})
    named = _named(compiled.model, input_ids, beside)
    results, seconds = _timed(lambda: _as_tuple(compiled(input_ids, **named)))
    used = loaded.weights() if loaded.run is not None else weights
    about = (known, out, beside, loaded.labels)
    result = report.Report.of(model, compiled.plan, used, input_ids, results, seconds, *about)
    if out is not None:
        atomic_write(out, lambda file: np.save(file, results[0]))
    if verify:
        inputs, limit = [input_ids, *named.values()], loaded.tolerance(compiled.model)
        result = result.verified(compiled.model, weights.rechunked(chunk, rechunk), inputs, results, limit)
    if not console.answer(result.as_dict(), as_json):
        result.show()
    result.stop_if_off()


def _named(model: Graph, first: Any, beside: dict[str, Any]) -> dict[str, Any]:
    """The other inputs by name, in the order of the model. Each row is one document, unless others are given."""
    from flashir.reference.inputs import masking_inputs, undivided

    names = {role: value.name for role, value in masking_inputs(model).items()}
    return undivided(model, first) | {names.get(role, role): array for role, array in beside.items()}


def _as_tuple(results: Any) -> tuple[Any, ...]:
    """The results of a model as a tuple, also if there is only one."""
    return results if isinstance(results, tuple) else (results,)


def _reader_if_any(loaded: Source, file: Path | None) -> Tokenizer | None:
    """The tokenizer of a model; None if it has none, because token ids do not need one."""
    from flashir.cli import tokens
    from flashir.errors import InputError

    try:
        return tokens.reader_of(loaded, file)
    except InputError:
        if file is None:
            return None
        raise


def _compiled(loaded: Source, target: str, weights: Weights, choices: dict[str, Any]) -> Runnable:
    """The model as a function: the artefact itself, or the compiled model."""
    from flashir.execution.compile import Runnable, compile
    from flashir.planning.plan import plan

    if loaded.run is not None:
        settled_plan = plan(loaded.model, target, choices["batch"], choices["seq_len"], measured=False)
        return Runnable(settled_plan, loaded.run)
    with console.err().status(f"compiling {loaded.word} for {target}"):
        return compile(loaded.model, target, weights.arrays, seed=weights.seed or 0, **choices)


def _timed(call: Any) -> tuple[Any, float]:
    """The result, and the seconds of the fastest of a few runs."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > QUICK:
            break
    return result, min(seconds)
