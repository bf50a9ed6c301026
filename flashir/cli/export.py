"""flashir export: a model and its parameters as an artefact on disk."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.backends.protocols import Batch
    from flashir.cli.source import Source
    from flashir.cli.web_page import WebPage
    from flashir.exporting.quantise import Quantised

LENGTH, TOKENS = 1024, 2**14  # a row of the text that perplexity is measured on, and how much of it is read


class Narrow(StrEnum):
    """What weights can be quantised to."""

    INT8 = "int8"
    FLOAT16 = "float16"


def export(
    ctx: typer.Context,
    model: options.Model,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    target: options.Target = "onnx:cpu",
    batch: options.Batch = 1,
    seq_len: options.SeqLen = 4096,
    params: options.Params = None,
    strict: options.Strict = True,
    seed: options.Seed = None,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    choose: options.Choose = None,
    dtype: options.ComputeType = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="Only operators of the standard, for other runtimes than ONNX Runtime.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Write prefill.onnx and step.onnx too, which continue texts token by token.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    max_len: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --decode: the tokens of the longest text, where a layer attends to all of them.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --decode: the length of the whole text, where a model divides by it (qk_scale = length).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    web: Annotated[
        bool,
        typer.Option(
            "--web",
            help="Write index.html too, a page that continues texts in a browser; implies --decode.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    web_runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With --web: where onnxruntime-web is, to be copied beside the page.  [default: the page loads it]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    quantize: Annotated[
        Narrow | None,
        typer.Option(
            help="Write weights in fewer bits, and say what that costs in perplexity.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --quantize: what perplexity is measured on.  [default: text that the model writes]",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --quantize: by how much perplexity may grow.  [default: 0.01, one percent]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    tokenizer: options.Tokenizer = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Where to write it.  [default: MODEL-export]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Write into a folder that is not empty: replace an exported model in it, keep other files.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model for a target, checked before it replaces what was there.

    The artefact takes any batch and any length. It carries the text of the model and the choices made, and was run
    against the float64 interpreter. It goes into an empty folder; --force replaces the model in one.

    Examples:
        flashir export flash --size small -o out/
        flashir export model.fir --target onnx:cpu --params p.safetensors -o out/
        flashir export flash --portable -o out/
        flashir export transformer++ --decode --max-len 4096 -o out/
        flashir export checkpoint/ -o out/
        flashir export run/ --decode --quantize int8 --text valid.txt -o out/
        flashir export run/ --web -o out/ && python -m http.server --directory out/
    """
    from flashir.cli import source
    from flashir.cli.alone import refuse_unused
    from flashir.cli.candidates import choice
    from flashir.errors import SettingError
    from flashir.exporting.export import check_free, divides_by_length
    from flashir.exporting.export import export as write
    from flashir.exporting.quantise import TOLERANCE as GROWTH
    from flashir.files.atomic import inodes
    from flashir.interrupts import kept
    from flashir.models.checkpoint import TOKENIZER

    if (max_len is not None or length is not None) and not (decode or web):
        raise SettingError("--max-len and --length are of what continues a text", hint="give --decode too")
    if web_runtime is not None and not web:
        raise SettingError("--web-runtime is of a page", hint="give --web too")
    if quantize is None and (text is not None or tolerance is not None):
        raise SettingError("--text and --tolerance are of narrow weights", hint="give --quantize int8 too")
    folder = out or Path(f"{Path(model).stem or model}-export")
    if not force:
        check_free(folder)
    found = source.find(model, settings, size, task)
    refuse_unused(ctx, found, "batch", "seq_len")
    if length is not None and not divides_by_length(found.model):
        raise SettingError(f"--length {length} does nothing: @{found.model.name} does not divide by the length")
    found = replace(found, tokenizer=tokenizer or found.tokenizer)
    page = _page(found, web_runtime) if web else None
    weights = found.weights(params, seed, strict)
    commit = partial(
        write,
        found.model,
        folder,
        target,
        weights.arrays,
        seed=weights.seed or 0,
        rechunk=rechunk,
        portable=portable or (web and quantize is Narrow.INT8),  # see docs/decisions/052
        decode=decode or web,
        max_len=max_len,
        length=length,
        tokenizer=found.tokenizer,
        reading=found.reading,
        quantize=quantize and quantize.value,
        text=None if text is None else _rows(found, text),
        tolerance=GROWTH if tolerance is None else tolerance,
        force=force or web,  # a page has its own files there already
        batch=batch,
        seq_len=seq_len,
        policy=policy.value,
        dtype=dtype,
        **source.read_choices(choose, chunk=chunk, cumsum=cumsum),
    )
    before = inodes(folder)

    def there() -> str:
        return "nothing was written" if inodes(folder) == before else f"{folder} has what was exported, whole"

    with kept(there), console.err().status(f"exporting {model} for {target} and checking it"):
        made, beside = page.write(folder, commit, max_len) if page else (commit(), [])
    written = [*made.files, *beside]
    files = {str(file): file.stat().st_size for file in written}
    notes = [*([weights.said] if weights.are_random else []), *made.notes]
    bytes_of_model = sum(files[str(file)] for file in made.files if file.name != TOKENIZER)
    about = {
        "model": model,
        "path": str(made.path),
        "files": files,
        "weights": weights.as_dict(),
        "checks": list(made.checks),
        "compared": [each.as_dict() for each in made.compared],
        "notes": notes,
        "quantised": made.quantised and {**made.quantised.as_dict(), "bytes": bytes_of_model},
    }
    if console.answer({**made.plan.as_dict(), **about}, as_json):
        return
    for line in made.checks:
        console.say(f"ok    {line}", "green")
    for line in notes:
        console.say(f"note  {line}", "yellow")
    console.say(f"plan  {choice(made.plan)}. {made.plan.why}")
    if made.quantised is not None:
        console.say(_said(made.quantised, bytes_of_model))
    for number, (name, count) in enumerate(files.items()):
        parameters = "" if number else f", {console.many(made.plan.parameters)} parameters"
        console.say(f"{name}  ({console.size(count)}{parameters})", "bold")
    if len(files) > 1:
        console.say(f"{len(files)} files, {console.size(sum(files.values()))}")
    if page:
        console.say(f"python -m http.server --directory {quote(str(folder))}, then http://localhost:8000 is its page")


def _page(found: Source, runtime: Path | None) -> WebPage:
    from flashir.cli.web_page import WebPage

    return WebPage.of(found, runtime)


def _rows(found: Source, file: Path) -> list[Batch]:
    """The first rows of a text, by the tokenizer of the model. Raises InputError."""
    from flashir.cli import tokens
    from flashir.generation.generate import longest
    from flashir.models.end_tokens import PLAIN
    from flashir.train.data import Batches, documents, tokenised
    from flashir.train.setup import mask_inputs, task_of, vocabulary_of

    task, vocab = task_of(found.model), vocabulary_of(found.model)
    used = tokens.tokenizer_of(found.word, vocab, found.tokenizer)
    used = used.reads(found.reading or PLAIN)
    used.check(task, vocab)
    length = min(LENGTH, longest(found.model, None) or LENGTH)
    corpus = tokenised(documents([file]), used)
    batches = Batches(corpus, task, 1, length, 0, vocab=vocab, **mask_inputs(found.model))
    return [*islice(batches.once(), -(-TOKENS // length))]


def _said(found: Quantised, size: int) -> str:
    """What narrow weights save and cost, for people."""
    before, after = console.size(found.float_bytes), console.size(size)
    cost = f"{console.large(found.float_perplexity, 5)} -> {console.large(found.perplexity, 5)} ({found.growth:+.3%})"
    return f"{found.kind}  {before} -> {after}, perplexity {cost} on {found.tokens:,} tokens {found.text}"
