"""flashir export: write a model and its parameters for a target. `flashir.exporting.export` does the work."""

from __future__ import annotations

from collections.abc import Callable
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
    from flashir.backends.training import Batch
    from flashir.cli.source import Source
    from flashir.cli.web_page import WebPage
    from flashir.ir import Graph

PARAMETER_S = 7e-8
"""Seconds of an export for each parameter: 8 of flash in base size on a core of an Intel Xeon, 11 with its decoder."""
WITH_DECODER = 1.35
SHORT_S = 5.0
TEXT_LENGTH, TEXT_TOKENS = 1024, 2**14  # row length, and number of tokens, of the text for perplexity


class IdType(StrEnum):
    """The types of token ids."""

    INT64 = "int64"
    INT32 = "int32"


class Host(StrEnum):
    """The programs that run exports."""

    GENAI = "genai"
    HUB = "hub"
    WEB = "web"


class StateType(StrEnum):
    """The types of keys and values in states."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class WeightFormat(StrEnum):
    """The formats of quantised weights."""

    INT8 = "int8"
    INT4 = "int4"
    FLOAT16 = "float16"


def export(
    ctx: typer.Context,
    model: options.Model,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    output: options.Outputs = None,
    target: options.Target = "onnx:cpu",
    batch: options.Batch = 1,
    seq_len: options.SeqLen = 4096,
    params: options.Params = None,
    strict: options.Strict = True,
    seed: options.Seed = None,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    choose: options.Choose = None,
    dtype: options.ComputeTypes = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="Use only what every runtime supports: no functions, no operators of ONNX Runtime.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    opset: Annotated[
        int | None,
        typer.Option(metavar="N", help="Version of ONNX operators.  [default: 17]", rich_help_panel=options.OUTPUT),
    ] = None,
    ids: Annotated[
        IdType | None,
        typer.Option(help="Type of token ids.  [default: int64]", rich_help_panel=options.OUTPUT),
    ] = None,
    static: Annotated[
        bool,
        typer.Option(
            "--static",
            help="Fix the shape at --batch rows of --length (or --seq-len) tokens, for devices such as NPUs.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Also write decoder.onnx (or .xml), which generates text: it reads any number of further tokens.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Write the decoder in two parts, prefill and step; implies --decode.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    host: Annotated[
        Host | None,
        typer.Option(
            "--for",
            help="Write what a program runs as it is: ONNX Runtime GenAI, transformers from the Hugging Face hub, or a "
            "browser.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    end_token: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN",
            help="A token that ends texts; repeatable.  [default: those of the model and its tokenizer]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    max_len: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --decode: capacity of caches in tokens, for models that need them.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    states: Annotated[
        StateType | None,
        typer.Option(
            help="With --decode: the type in which states hold keys and values.  [default: that of the model]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --static: text length. With --decode: the same, for models that divide by it.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    web: Annotated[
        bool,
        typer.Option(
            "--web",
            help="The same as --for web: also write index.html, a page that generates text in a browser.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    web_runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With --web: folder of onnxruntime-web to copy.  [default: the page downloads it]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    quantize: Annotated[
        WeightFormat | None,
        typer.Option(help="Quantise weights, and measure the change in perplexity.", rich_help_panel=options.OUTPUT),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --quantize: text for perplexity.  [default: text generated by the model]",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Largest relative increase in perplexity by --quantize or a narrow --dtype.  [default: 0.01]",
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
            help="Output folder.  [default: MODEL-export]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Write into a folder that is not empty: replace an exported model, keep other files.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model for a target, verified before it replaces an earlier one.

    The exported model takes any batch size and length, unless --static. It contains the model text and the choices,
    and is verified against the float64 reference. The folder must be empty; --force replaces an exported model in it.

    Examples:
        flashir export flash --size small -o out/
        flashir export model.fir --target onnx:cpu --params p.safetensors -o out/
        flashir export flash --portable --opset 23 -o out/
        flashir export flash --portable --batch 1 --length 128 --static --ids int32 -o out/
        flashir export transformer++ --decode --max-len 4096 -o out/
        flashir export checkpoint/ -o out/
        flashir export run/ --decode --quantize int8 --text valid.txt -o out/
        flashir export run/ --for genai --max-len 4096 -o out/
        flashir export run/ --for hub -o out/
        flashir export run/ --for web -o out/ && python -m http.server --directory out/
    """
    from flashir.cli import source
    from flashir.cli.alone import refuse_together, refuse_unused, typed
    from flashir.cli.export_report import ExportReport
    from flashir.errors import SettingError
    from flashir.exporting.export import export as write
    from flashir.exporting.folder import check_free
    from flashir.interrupts import on_interrupt
    from flashir.reference.narrowing import GROWTH
    from flashir.transforms.whole_length import divides_by_length

    web = web or host is Host.WEB
    program = None if host in (None, Host.WEB) else host
    split = split or web
    decode = decode or split or program is not None
    source.only_one("--web" if web else "--split", split or None, "--for", program)
    refuse_together(
        (static and decode, "a decoder has no fixed shape", "leave out --static, or --decode, --for and --web"),
        (states is not None and not decode, "--states requires --decode", "give --decode too"),
        (
            (max_len is not None or (length is not None and not static)) and not decode,
            "--max-len and --length require --decode",
            "give --decode too, or --static",
        ),
        (web and ids is not None, "the page passes int64 ids", "leave out --ids or --web"),
        (web_runtime is not None and not web, "--web-runtime requires --web", "give --web too"),
        (quantize is None and text is not None, "--text requires --quantize", "give --quantize int8 too"),
        (
            quantize is None and tolerance is not None and dtype in (None, "float32"),
            "--tolerance requires --quantize or a narrow --dtype",
            "give --quantize int8 too",
        ),
    )
    if static:
        seq_len, length = length or seq_len, None
    folder = out or Path(f"{Path(model).stem or model}-export")
    if not force:
        check_free(folder)
    loaded = source.find(model, settings, size, task, outputs=output)
    refuse_unused(ctx, loaded, "batch", "seq_len", *(["length"] if static else []))
    if length is not None and not divides_by_length(loaded.model):
        raise SettingError(f"--length {length} does nothing: @{loaded.model.name} does not divide by the length")
    loaded = replace(loaded, tokenizer=tokenizer or loaded.tokenizer)
    ends = _ends(loaded, tokenizer, end_token) if end_token else None
    page = _page(loaded, web_runtime) if web else None
    weights = loaded.weights(params, seed, strict)
    commit = partial(
        write,
        loaded.model,
        folder,
        target if program is not Host.HUB or "target" in typed(ctx) else None,
        weights.arrays,
        seed=weights.seed or 0,
        rechunk=rechunk,
        portable=portable or (web and quantize is WeightFormat.INT8),  # see docs/decisions/052
        opset=opset,
        ids=ids and ids.value,
        static=static,
        decode=decode,
        split=split,
        host=program and program.value,
        ends=ends,
        max_len=max_len,
        length=length,
        states=states and states.value,
        tokenizer=loaded.tokenizer,
        reading=loaded.reading,
        labels=loaded.labels,
        training=_training(loaded) if program is Host.HUB and weights.source == "checkpoint" else (),
        quantize=quantize and quantize.value,
        text=None if text is None else _rows(loaded, text),
        tolerance=GROWTH if tolerance is None else tolerance,
        force=force or web,  # the files of the page are already in the folder
        batch=batch,
        seq_len=seq_len,
        policy=policy.value,
        dtype=dtype,
        **source.read_choices(choose, chunk=chunk, cumsum=cumsum),
    )
    _tell_forecast(loaded.model, decode)
    with on_interrupt(_state_of(folder)), console.err().status(f"exporting {model} for {target} and checking it"):
        exported, others = page.write(folder, commit, max_len) if page else (commit(), [])
    sizes = {str(file): file.stat().st_size for file in (*exported.files, *others)}
    notes = [*([weights.origin_text] if weights.are_random else []), *exported.notes]
    report = ExportReport(model, exported, sizes, notes, weights.as_dict())
    if not console.answer(report.as_dict(), as_json):
        report.show()
        if page:
            console.say(f"python -m http.server --directory {quote(str(folder))}, then open http://localhost:8000")


def _state_of(folder: Path) -> Callable[[], str]:
    """Says whether the folder has changed, for the message of an interrupt."""
    from flashir.files.atomic import inodes

    before = inodes(folder)
    return lambda: "nothing was written" if inodes(folder) == before else f"{folder} has the complete exported model"


def _tell_forecast(model: Graph, decode: bool) -> None:
    """Say how long the export takes if it is long: the weights are written, and the checks compute with them."""
    from flashir.cli.forecast import tell
    from flashir.ir.parameter_count import parameter_count

    count = parameter_count(model)
    seconds = count * PARAMETER_S * (WITH_DECODER if decode else 1)
    if seconds >= SHORT_S:
        advice = "the checks run on this machine, whatever the target, and a smaller --size takes less"
        tell(f"{console.many(count)} parameters to write and check", seconds, advice, by="their number")


def _page(loaded: Source, runtime: Path | None) -> WebPage:
    from flashir.cli.web_page import WebPage
    from flashir.reference.cross_entropy import need_logits

    need_logits(loaded.model, "the page cannot write text with it")
    return WebPage.of(loaded, runtime)


def _ends(loaded: Source, tokenizer: Path | None, names: list[str]) -> list[int]:
    """The ids of the tokens that end a text. Raises InputError, SettingError."""
    from flashir.cli.tokens import ends_of, reader_of

    return sorted(ends_of(loaded, reader_of(loaded, tokenizer), names))


def _training(loaded: Source) -> tuple[str, ...]:
    """Sentences about the training of a checkpoint, for the card of the hub."""
    from flashir.train.summary import training_of

    return training_of(Path(loaded.word))


def _rows(loaded: Source, file: Path) -> list[Batch]:
    """The first rows of a text, tokenised for the model. Raises InputError."""
    from flashir.cli import tokens
    from flashir.generation.generate import longest
    from flashir.models.end_tokens import PLAIN
    from flashir.reference.cross_entropy import need_logits
    from flashir.train.corpora import text_batches
    from flashir.train.data import documents, tokenised
    from flashir.train.task import check_tokenizer, vocabulary_of

    need_logits(loaded.model, "it has no perplexity")
    used = tokens.tokenizer_of(loaded.word, vocabulary_of(loaded.model), loaded.tokenizer)
    used = used.reads(loaded.reading or PLAIN)
    check_tokenizer(loaded.model, used)
    length = min(TEXT_LENGTH, longest(loaded.model, None) or TEXT_LENGTH)
    corpus = tokenised(documents([file]), used)
    batches = text_batches(corpus, loaded.model, 1, length)
    return [*islice(batches.once(), -(-TEXT_TOKENS // length))]
