"""flashir generate: continue a prompt, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.rows import Pace, Row, Sheet
    from flashir.cli.source import Source
    from flashir.generation.generate import Decoder
    from flashir.generation.sampling import Sampling
    from flashir.ir import Graph

Prompt = tuple[str, str]
"""The name of a prompt in errors, and its text."""

SAMPLING = "Sampling"
TEXT = "Text"


def generate(
    model: options.ModelOrExport,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    output: options.Outputs = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A prompt; repeat for a batch.", rich_help_panel=TEXT),
    ] = None,
    prompt_file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A file with a prompt; a final line break is removed.  [default: standard input]",
            rich_help_panel=TEXT,
        ),
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A further prompt, read after the text that follows the one before; repeatable.",
            rich_help_panel=TEXT,
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", help="The most tokens to generate after a prompt.", rich_help_panel=TEXT)
    ] = 128,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="STRING", help="End a text before this string; repeatable.", rich_help_panel=TEXT),
    ] = None,
    end_token: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN",
            help="End a text at this token; repeatable.  [default: those of the model and its tokenizer]",
            rich_help_panel=TEXT,
        ),
    ] = None,
    ignore_end: Annotated[
        bool, typer.Option("--ignore-end", help="Continue after end tokens.", rich_help_panel=TEXT)
    ] = False,
    special_tokens: Annotated[
        bool,
        typer.Option(
            "--special-tokens",
            help="Read the names of special tokens in prompts as tokens, not as text.",
            rich_help_panel=TEXT,
        ),
    ] = False,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="0 takes the most likely token.", rich_help_panel=SAMPLING)
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(metavar="N", help="Sample from the N most likely tokens.", rich_help_panel=SAMPLING)
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Sample from the most likely tokens up to this total probability.",
            rich_help_panel=SAMPLING,
        ),
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed; equal seeds give equal text.", rich_help_panel=SAMPLING)
    ] = 0,
    target: options.Target = "onnx:cpu",
    max_len: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Capacity of caches in tokens, including the prompt.  [default: prompt and --tokens]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Text length for models that divide by it (qk_scale = length), as in training."
            "  [default: prompt and --tokens]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    dtype: options.ComputeType = None,
    tokenizer: options.Tokenizer = None,
    params: options.Params = None,
    strict: options.Strict = True,
    as_json: options.Json = False,
) -> None:
    """Continue a prompt, token by token, at constant cost per token for a linear model.

    Text is printed as it is generated. Several prompts are continued together, and printed one below the other. A
    further prompt continues the text before it at the cost of its own tokens. A text
    ends at the token that ended documents in training, or at the end token of its tokenizer. Speed and memory are
    printed on standard error. Ctrl-C ends the text early.

    Examples:
        flashir generate run/ --prompt "It is a truth"
        flashir generate out/ --prompt-file chapter.txt --tokens 2000 --top-p 0.95 --seed 7
        flashir generate run/ --prompt "Who is Emma?" --then "And who is Anne?" --tokens 40
        flashir generate run/ --prompt Emma --prompt Anne --stop "." --temperature 0 --target torch:cpu --json
    """
    from flashir.cli import source
    from flashir.cli.group import INTERRUPTED
    from flashir.cli.rows import End, Row, Sheet
    from flashir.cli.tokens import ends_of, reader_of
    from flashir.errors import Faults
    from flashir.generation.sampling import Sampling, SplitMix64
    from flashir.models.end_tokens import Reading
    from flashir.train.data.spelling import Stops

    faults = Faults()
    faults.of(_refuse_numbers, {"--tokens": (tokens, 0), "--max-len": (max_len, 1), "--length": (length, 1)})
    sampling = faults.of(Sampling, temperature, top_k, top_p)
    faults.of(SplitMix64, seed)
    faults.of(Stops, stop or ())
    texts = faults.of(_prompts, prompt or (), prompt_file or ()) or []
    further = faults.of(_further, then or (), len(texts)) or []
    loaded = faults.of(source.find, model, settings, size, task, outputs=output, exports=target, idle=True)
    weights = reader = ends = None
    ids: list[list[int]] = []
    if loaded is not None:
        faults.of(_refuse_model, loaded, {"params": params, "dtype": dtype, "output": output}, length)
        weights = faults.of(loaded.weights, params if loaded.main is None else None, None, strict)
        reader = faults.of(reader_of, loaded, tokenizer)
        faults.of(source.only_one, "--end-token", end_token, "--ignore-end", ignore_end or None)
    if loaded is not None and reader is not None:
        ends = None if ignore_end else faults.of(ends_of, loaded, reader, end_token)
        reader = reader.reads(Reading(special_tokens=special_tokens))
        ids = [reader.encode(text).tolist() for _, text in (*texts, *further)]
        lengths = {name: len(row) for (name, _), row in zip((*texts, *further), ids, strict=True)}
        faults.of(_refuse_long, loaded.model, lengths, max_len)
    faults.tell()
    assert sampling is not None and loaded is not None and reader is not None and weights is not None
    named = zip((*texts, *further), ids, strict=True)
    rows = [Row(text, row, reader, stop or (), ends or ()) for (_, text), row in named]
    turns = [rows[: len(texts)], *([row] for row in rows[len(texts) :])]
    with console.err().status(f"preparing {model} for {target}"):
        decoder = _decoder(loaded, target, weights.arrays, dtype, turns, tokens, max_len, length)
    sheet = None if as_json else Sheet(rows)
    pace = _run(decoder, turns, sheet, tokens, sampling, seed)
    subject = {"model": model, "target": target, "seed": seed, "weights": weights.as_dict()}
    _tell(rows, pace, subject if as_json else None)
    if weights.are_random:
        console.note(f"note: {weights.origin_text}", "yellow")
    if any(row.ended is End.INTERRUPTED for row in rows):
        raise typer.Exit(INTERRUPTED)


def _refuse_numbers(options: dict[str, tuple[int | None, int]]) -> None:
    """Raises SettingError for each number, by option, below its minimum or above the largest size."""
    from flashir.errors import SettingError
    from flashir.ir.limits import LARGEST_SIZE

    numbers = {name: (number, least) for name, (number, least) in options.items() if number is not None}
    problems = [f"{name} must be at least {least}, got {n}" for name, (n, least) in numbers.items() if n < least]
    problems += [
        f"{name} must be at most {LARGEST_SIZE}, got {n}" for name, (n, _) in numbers.items() if n > LARGEST_SIZE
    ]
    if problems:
        raise SettingError(problems)


def _prompts(texts: Sequence[str], files: Sequence[Path]) -> list[Prompt]:
    """The prompts. Raises InputError with all their problems."""
    from flashir.errors import InputError, gathered
    from flashir.files.foreign import read_bytes

    prompts = [(f"prompt {number}", text) for number, text in enumerate(texts, 1)]
    contents = [] if texts or files else [("standard input", _piped())]
    problems: list[str] = []
    for path in files:
        with gathered(problems):
            contents.append((str(path), read_bytes(path, InputError, streams=True)))
    for name, content in contents:
        try:
            prompts.append((name, content.decode().removesuffix("\n").removesuffix("\r")))
        except UnicodeDecodeError as error:
            problems.append(f"{name} is not UTF-8 text: see byte {error.start}")
    problems += [f"{name} is empty" for name, text in prompts if not text]
    problems += [f"{name} is not UTF-8 text" for name, text in prompts if _is_broken(text)]
    if problems:
        raise InputError(problems)
    return prompts


def _further(texts: Sequence[str], count: int) -> list[Prompt]:
    """The further prompts. Raises InputError if one is empty, or there are several texts to continue."""
    from flashir.errors import InputError

    problems = [f"--then {number} is empty" for number, text in enumerate(texts, 1) if not text]
    problems += [f"--then {number} is not UTF-8 text" for number, text in enumerate(texts, 1) if _is_broken(text)]
    if texts and count > 1:
        problems.append(f"--then continues one text, and there are {count} prompts")
    if problems:
        raise InputError(problems)
    return [(f"--then {number}", text) for number, text in enumerate(texts, 1)]


def _piped() -> bytes:
    """The content of standard input. Raises InputError if there is none."""
    from flashir.cli.streams import piped
    from flashir.errors import InputError
    from flashir.files.foreign import guarded

    with guarded("standard input", InputError, "cannot be read"):
        text = piped()
    if text is None:
        raise InputError("there is no prompt", hint="give --prompt TEXT or --prompt-file FILE, or pipe text in")
    return text


def _is_broken(text: str) -> bool:
    """Whether an argument of the command line was not UTF-8: its bytes then are lone surrogates."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _refuse_model(loaded: Source, options: dict[str, Any], length: int | None) -> None:
    """Raises SettingError if a model cannot generate text, or options have no effect on an exported model."""
    from flashir.errors import SettingError
    from flashir.reference.cross_entropy import logits_width
    from flashir.transforms.one_document import OneDocument
    from flashir.transforms.whole_length import divides_by_length

    model, problems = OneDocument().apply(loaded.model), []
    if any(node.attrs.get("causal") is False for node in model.walk()):
        problems.append(f"@{model.name} is bidirectional, so it cannot continue a prompt; a causal model (lm) can")
    if len(model.inputs) != 1:
        names = ", ".join(value.name for value in model.inputs)
        problems.append(f"@{model.name} takes {names}; only a model of tokens alone can continue a prompt")
    if logits_width(model) is None:
        problems.append(f"@{model.name} does not return logits over its vocabulary, so it predicts no token")
    if length is not None and length > 0 and not divides_by_length(model):
        problems.append(f"--length {length} does nothing: @{model.name} does not divide by the length")
    late = [f"--{name}" for name, value in options.items() if value is not None]
    if loaded.main is not None and late:
        problems.append(f"{', '.join(late)} cannot be set: {loaded.word} is exported, its choices are fixed")
    if problems:
        raise SettingError(problems)


def _refuse_long(model: Graph, lengths: dict[str, int], max_len: int | None) -> None:
    """Raises InputError if a prompt has no tokens, or more than the model supports."""
    from flashir.errors import InputError, counted
    from flashir.generation.generate import longest

    limit = longest(model, max_len)
    bound = "--max-len is" if limit == max_len else "the model can hold"
    problems = [f"{name} has no tokens" for name, length in lengths.items() if not length]
    if limit is not None:
        problems += [f"{name} has {counted(n, 'token')}, {bound} {limit}" for name, n in lengths.items() if n > limit]
    if problems:
        raise InputError(problems)


def _decoder(
    loaded: Source,
    target: str,
    arrays: Any,
    dtype: str | None,
    turns: list[list[Row]],
    tokens: int,
    max_len: int | None,
    length: int | None,
) -> Decoder:
    """The decoder of the model. By default, caches hold the longest prompts and all new tokens."""
    from flashir.backends.protocols import DECODER_PARTS
    from flashir.generation.generate import decoder, restored

    lengths = [len(row.ids) for row in turns[0]]
    whole = sum(max(len(row.ids) for row in rows) + tokens for rows in turns)
    room: dict[str, Any] = {"max_len": max_len or whole, "length": length or whole}
    if loaded.main is None:
        return decoder(loaded.model, target, arrays, **room, batch=len(lengths), seq_len=max(lengths), dtype=dtype)
    if DECODER_PARTS in loaded.metadata:
        return restored(loaded.main, target, max_len=max_len, length=length)
    return restored(loaded.main, target, **room)


def _run(
    decoder: Decoder, turns: list[list[Row]], sheet: Sheet | None, tokens: int, sampling: Sampling, seed: int
) -> Pace:
    """Generate turn by turn until every row has ended. Ctrl-C ends all rows, and the text so far is printed."""
    from flashir.cli.rows import End, Pace
    from flashir.generation.generate import generate

    pace, why, texts = Pace(), End.ERROR, None
    try:
        for rows in turns:
            prompts = [row.ids for row in rows]
            if texts is None:
                texts = generate(decoder, prompts, tokens=tokens, sampling=sampling, seed=seed)
                pace.read()
            else:
                texts = texts.then(prompts, tokens=tokens)
            for picked in texts:
                pace.tick(sum(row.ended is None for row in rows))
                for row, token in zip(rows, picked, strict=True):
                    row.add(int(token))
                if sheet is not None:
                    sheet.update()
                if all(row.ended for row in rows):
                    break
            for row in rows:
                row.end(End.LIMIT if texts.left else End.LENGTH)
    except KeyboardInterrupt:
        why = End.INTERRUPTED
    finally:
        for rows in turns:
            for row in rows:
                row.end(why)
        if sheet is not None and pace.tokens:
            sheet.update()
    return pace


def _tell(rows: list[Row], pace: Pace, subject: dict[str, Any] | None) -> None:
    """Print the result as JSON, or the speed on standard error."""
    from flashir.machine.peak_memory import resident_memory

    memory = resident_memory()
    if subject is not None:  # a non-finite logit is an error that may come after some text
        figures = {**pace.as_dict(), "resident_bytes": memory}
        console.emit({**subject, **figures, "results": [row.as_dict() for row in rows]})
        return
    ends = ", ".join(dict.fromkeys(str(row.ended) for row in rows))
    tokens = console.counted(sum(len(row.tokens) for row in rows), "token")
    parts = [f"{tokens} ({ends})", *pace.facts()]
    parts += [] if memory is None else [f"{console.size(memory)} resident"]
    console.note(" · ".join(parts), "dim")
