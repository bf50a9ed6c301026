"""flashir run: a model on text or token ids."""

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

QUICK = 1.0  # seconds; a run that takes less is repeated, as the first is slower
REPEATS = 3


def run(
    ctx: typer.Context,
    model: options.ModelOrExport,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    target: options.Target = "onnx:cpu",
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text for the model's tokenizer. Without: standard input.",
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
            help="True where there is a token, for a model with mask.  [default: everywhere]",
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
    dtype: options.ComputeType = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare with the float64 interpreter; an export with the parameters in it, or of --params, --seed.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE.npy",
            help="Keep the first result, such as logits, or that of --output.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which result -o keeps, by its name in the model.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run a model, or an export of one, and say how fast it is and how well it foresees the text.

    Of a model whose result is no logits, it says the shape and plain statistics. An export has its parameters inside;
    with --verify it can be compared with others.

    A run and what came of it bring their tokenizer; without one, and with a vocabulary of 256, tokens are the bytes of
    the text. The loss is that of the next token, for causal models.

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
    found = source.find(model, settings, size, task, exports=target)
    refuse_unused(ctx, found)
    source.only_one("--text", text, "--ids", ids)
    kept = _place_of(output, found.model, out)
    weights = found.weights(params, seed, strict, reference=verify)
    known: Tokenizer | None
    if ids is None:
        known = tokens.reader_of(found, tokenizer).reads(tokens.reading_of(found, None, special_tokens))
        whole = tokens.text_ids(known, text)
    else:
        known, whole = _reader_if_any(found, tokenizer), tokens.read_array(ids)
    given = tokens.cut(whole, offset, length)
    told = {name: file for name, file in (("segment_ids", segment_ids), ("mask", mask)) if file is not None}
    beside = {name: tokens.cut(tokens.read_array(file), offset, length) for name, file in told.items()}
    batch, width = (*given.shape, 1)[:2]
    compiled = _compiled(found, target, weights, {**choices, "batch": max(1, batch), "seq_len": max(1, width)})
    named = _named(compiled.model, given, beside)
    results, seconds = _timed(lambda: _each(compiled(given, **named)))
    used = found.weights() if found.run is not None else weights
    result = report.Report.of(model, compiled.plan, used, given, results, seconds, known, out, beside)
    if out is not None:
        atomic_write(out, lambda file: np.save(file, results[kept]))
    if verify:
        inputs, limit = [given, *named.values()], found.tolerance(compiled.model)
        result = result.verified(compiled.model, weights.rechunked(chunk, rechunk), inputs, results, limit)
    if not console.answer(result.as_dict(), as_json):
        result.show()
    result.stop_if_off()


def _named(model: Graph, first: Any, beside: dict[str, Any]) -> dict[str, Any]:
    """The other inputs by name, in the order of the model. Each row is one document, unless others are given."""
    from flashir.reference.inputs import masking_inputs, undivided

    names = {role: value.name for role, value in masking_inputs(model).items()}
    return undivided(model, first) | {names.get(role, role): array for role, array in beside.items()}


def _place_of(output: str | None, model: Graph, out: Path | None) -> int:
    """Which of the results is to be kept. Raises InputError where there is none of that name, or nothing keeps it."""
    from flashir.errors import InputError, suggest

    names = [value.name for value in model.outputs]
    if output is None:
        return 0
    problems = [] if output in names else [f"the model has no result {output!r}{suggest(output, names)}"]
    problems += ["nothing keeps that result: give -o FILE.npy"] if out is None else []
    if problems:
        raise InputError(problems, where="--output")
    return names.index(output)


def _each(results: Any) -> tuple[Any, ...]:
    """The results of a model one by one: a model with several gives a tuple."""
    return results if isinstance(results, tuple) else (results,)


def _reader_if_any(found: Source, file: Path | None) -> Tokenizer | None:
    """What reads text for a model; None where that is not known, for token ids do not need it."""
    from flashir.cli import tokens
    from flashir.errors import InputError

    try:
        return tokens.reader_of(found, file)
    except InputError:
        if file is None:
            return None
        raise


def _compiled(found: Source, target: str, weights: Weights, choices: dict[str, Any]) -> Runnable:
    """The model as a function: the artefact itself, or compiled now."""
    from flashir.execution.compile import Runnable, compile
    from flashir.planning.plan import plan

    if found.run is not None:
        made = plan(found.model, target, choices["batch"], choices["seq_len"], measured=False)
        return Runnable(made, found.run)
    with console.err().status(f"compiling {found.word} for {target}"):
        return compile(found.model, target, weights.arrays, seed=weights.seed or 0, **choices)


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
