"""flashir compare: train systems alike, with equal parameters, and compare what they learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.train.feed import Data
    from flashir.train.recipe import Recipe

SUBJECT, SYSTEMS, RECIPE, RUN = "Task or text", "Systems", "Recipe", "Run"
TOKENS_AT_ONCE = 4096
"""The most tokens that are computed together by default."""
ITEMS = 4


@dataclass(frozen=True)
class Defaults:
    """What a comparison is by default.

    Args:
        seq_len, batch, steps: the rows of a step, and the steps.
        shape: the settings of the systems.
    """

    seq_len: int
    batch: int
    steps: int
    shape: Mapping[str, Any]


TASK = Defaults(96, 32, 600, {"d_model": 64, "depth": 2, "key_dim": 32, "chunk": 16, "vocab": 80})
TEXT = Defaults(1024, 8, 1000, {"d_model": 256, "depth": 8, "key_dim": 64})


def compare(
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A task that needs the past: recall of values by keys, copy of a string, bag (counting).",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(
            metavar="N", help=f"Pairs, or symbols, to remember in a task.  [default: {ITEMS}]", rich_help_panel=SUBJECT
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="Instead of a task: text, a file or a folder; repeatable.", rich_help_panel=SUBJECT
        ),
    ] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            "--valid", metavar="PATH", help="Validation text.  [default: 1% of the data]", rich_help_panel=SUBJECT
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="bytes, bpe:N, or a tokenizer.json.  [default: bytes]", rich_help_panel=SUBJECT
        ),
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A system, such as transformer++ or 'flash local-only'; repeatable.  [default: all]",
            rich_help_panel=SYSTEMS,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "-s",
            "--set",
            metavar="KEY=VALUE",
            help="Setting of every system that has it; d_model and depth are those of flash.",
            rich_help_panel=SYSTEMS,
        ),
    ] = None,
    chunk: options.Chunk = None,
    dtype: options.ComputeType = None,
    learning_rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SYSTEM=]X",
            help="Peak learning rate of all systems, or of one; of several, each system keeps its best."
            "  [default: by width]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="paper, or a file of settings.", rich_help_panel=RECIPE)
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(metavar="N", help="Warm-up steps, or a share of all steps.", rich_help_panel=RECIPE),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=f"Optimiser steps.  [default: {TASK.steps} for a task, {TEXT.steps} for text]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=f"Rows per batch.  [default: {TASK.batch} for a task, {TEXT.batch} for text]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Rows computed at once.  [default: those of {TOKENS_AT_ONCE} tokens]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            "--seq-len",
            "--length",
            metavar="N",
            min=1,
            help=f"Tokens per row.  [default: {TASK.seq_len} for a task, {TEXT.seq_len} for text]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Seeds: 0, 1, .., N - 1.", rich_help_panel=RECIPE)] = 1,
    validate_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Steps between validations, and between checkpoints.  [default: 50 per run]",
            rich_help_panel=RUN,
        ),
    ] = None,
    validation_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens per validation.  [default: 131072]", rich_help_panel=RUN)
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="BACKEND:DEVICE", help="Target to train on.", rich_help_panel=RUN)
    ] = "torch:cpu",
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FOLDER", help="Output folder; resumes one.", rich_help_panel=RUN),
    ] = Path("comparison"),
    as_json: options.Json = False,
) -> None:
    """Train systems with equal parameters on the same rows, and compare them.

    flash has the depth and the width of the settings. Every other system gets the depth, and then the expanded width,
    that bring it closest to the parameters of flash, and another width where its expanded width would change by more
    than a third. The table says how far its parameters are from those of flash. A task is small by default, and takes
    minutes. It asks for what the first chunk of a row says, from 0, 1 and 4 chunks away, and shows the share of right
    answers by distance. A text shows perplexity, also by position.

    The folder contains a run for each system, rate and seed, and comparison.json, .md and .svg for all of them. The
    same command resumes an interrupted comparison; other systems, rates and seeds are added to those in the folder. A
    system that diverges at a rate gets the reason, and the others go on.

    Examples:
        flashir compare --task recall -s token_shift=true --seeds 3
        flashir compare --task copy --system flash --system 'flash local-only' --learning-rate 3e-3 --learning-rate 1e-2
        flashir compare --data books/train --valid books/valid --learning-rate 2e-3 --learning-rate performer=1e-3
        flashir compare --data books/ --tokenizer bpe:4096 --chunk 128 -s d_model=256 -s depth=8 --json
    """
    from flashir.cli import source, systems
    from flashir.cli.comparing import Comparing
    from flashir.compare.comparison import compare as compared
    from flashir.compare.summary import table
    from flashir.compare.trial import trials
    from flashir.errors import SettingError
    from flashir.interrupts import on_interrupt
    from flashir.train.recipe import recipe_of

    if (task is None) == (not data):
        raise SettingError("give --task NAME or --data PATH, one of them")
    if task is not None and (validation or tokenizer):
        raise SettingError("--valid and --tokenizer require --data", hint="a task makes its own rows of tokens")
    if items is not None and data:
        raise SettingError("--items requires --task")
    items = ITEMS if items is None else items
    default = TASK if task else TEXT
    length, batch = seq_len or default.seq_len, batch or default.batch
    own_settings = {
        "data": tuple(data or ()),
        "validation": tuple(validation or ()),
        "tokenizer": tokenizer,
        "target": target,
        "seq_len": length,
        "tokens": batch * length,
        "rows": rows if rows is not None else _rows(batch, length),
        "steps": steps or default.steps,
        "warmup": int(warmup) if warmup is not None and warmup.is_integer() else warmup,
        "validate_every": validate_every,
        "save_every": validate_every,
        "validation_tokens": validation_tokens,
        "keep": 1,
    }
    used = recipe_of(recipe, {name: value for name, value in own_settings.items() if value is not None}).located()
    names = systems.chosen(system)
    rates = _rates(learning_rate, names, used.learning_rate)
    shape = {"max_len": length, "head_bias": used.token_frequencies, **default.shape}
    shape |= source.read_settings(settings or ()) | ({} if chunk is None else {"chunk": chunk})
    _check_sizes(shape)
    depth, width = shape.pop("depth"), shape.pop("d_model")
    tokens: Path | None = None
    with on_interrupt(f"what was done is in {out}; the same command goes on"):
        if task is not None:
            learned = _task(task, items, length, shape)
        else:
            used, shape, tokens, learned = _text(used, shape, (depth, width), out)
        models = systems.shaped(names, depth, width, shape)
        shape = {"depth": depth, "d_model": width, **shape}
        common = {"task": task, "items": items, "shape": shape, "recipe": _common(used)}
        choices = {} if dtype is None else {"dtype": dtype.value}
        every = trials(models, used, rates, seeds, out, tokenizer=tokens, choices=choices)
        result = compared(every, learned, common, out, Comparing(every))
    if not console.answer({"folder": str(out), **result}, as_json):
        console.echo(table(result["runs"]))
        console.note(f"curves: {out / 'comparison.svg'}")


def _task(name: str, items: int, length: int, shape: Mapping[str, Any]) -> Data:
    """The data of a task for the settings of the systems."""
    from flashir.compare.task_data import TaskData
    from flashir.compare.tasks import task_named

    return TaskData(task_named(name, length, shape["chunk"], shape["vocab"], items))


def _text(
    recipe: Recipe, shape: dict[str, Any], size: tuple[int, int], out: Path
) -> tuple[Recipe, dict[str, Any], Path, Data]:
    """The recipe for a text, the settings of the systems, the file of the tokenizer, and the text."""
    from flashir.cli import systems
    from flashir.cli.meter import meter
    from flashir.planning.plan import plan
    from flashir.train.corpora import corpora
    from flashir.train.data import Tokenizer, documents
    from flashir.train.setup import read_settled, tokenizer_of

    build = systems.build(systems.FLASH, shape)
    file = out / "tokenizer.json"
    with meter() as step:
        if file.exists():
            used = Tokenizer.read(file)
        else:
            used = tokenizer_of(recipe.tokenizer, lambda: documents(recipe.data, step), recipe.document_end)
        shape = {"vocab": used.needs("lm") if used.is_bytes else used.vocab, **shape}
        used.check("lm", shape["vocab"])
        if not file.exists():
            out.mkdir(parents=True, exist_ok=True)
            used.save(file)
        recipe = read_settled(recipe, used)
        texts = corpora(recipe, used.reads(recipe.reading), step)
    if "chunk" not in shape:
        flash = build(*size, vocab=shape["vocab"])
        shape["chunk"] = plan(flash, recipe.target, recipe.rows or 1, recipe.seq_len, True).chunk
    return recipe, shape, file, texts


def _check_sizes(shape: Mapping[str, Any]) -> None:
    """Raises SettingError that lists every size which is not a whole number from 1."""
    from flashir.errors import SettingError

    sizes = {name: shape[name] for name in ("depth", "d_model", "chunk", "vocab") if name in shape}
    odd = [f"{name} must be a whole number from 1, got {value}" for name, value in sizes.items() if not _is_size(value)]
    if odd:
        raise SettingError(odd, where="-s")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _rows(batch: int, length: int) -> int:
    """The rows that are computed together by default."""
    fitting = range(max(1, min(batch, TOKENS_AT_ONCE // length)), 0, -1)
    return next(rows for rows in fitting if batch % rows == 0)


def _rates(
    texts: Sequence[str] | None, names: Sequence[str], default: float | None
) -> dict[str, tuple[float | None, ...]]:
    """The rates of each system: its own, else those of all. Raises SettingError with every problem."""
    from flashir.errors import SettingError, suggest

    of_all: list[float] = []
    own: dict[str, list[float]] = {}
    problems = []
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = 0.0
        if not 0 < rate <= 1e6:
            problems.append(f"a learning rate must be a number above 0, got {number!r}")
        elif equals and name not in names:
            problems.append(f"{name!r} is not compared{suggest(name, names)}")
        else:
            (own.setdefault(name, []) if equals else of_all).append(rate)
    if problems:
        raise SettingError(problems, where="--learning-rate", hint="such as 3e-3, or flash=3e-3")
    return {name: tuple(own.get(name) or of_all) or (default,) for name in names}


def _common(recipe: Recipe) -> dict[str, Any]:
    """The settings that all runs of a comparison have in common."""
    from dataclasses import asdict

    return {name: value for name, value in asdict(recipe).items() if name not in ("learning_rate", "seed")}
