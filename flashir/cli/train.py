"""flashir train: from text to a trained model, and on from where a run was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.meter import Step
    from flashir.train.meeting import Meeting, Told
    from flashir.train.pace import Pace
    from flashir.train.recipe import Recipe
    from flashir.train.run_folder import RunFolder
    from flashir.train.setup import Data, Run

RECIPE, RUN = "Recipe (Tables 5 and 6 of the paper)", "Run"


def train(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A zoo name such as flash, a .fir file, a checkpoint folder, or a run."),
    ] = None,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Text to learn from: a file, or a folder of .txt; repeatable.",
            rich_help_panel=RUN,
        ),
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(
            "--valid",
            metavar="PATH",
            help="Text to measure the loss on.  [default: 1% of the data, which is held out]",
            rich_help_panel=RUN,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="bytes, bpe:N (trained on the data), or a tokenizer.json.  [default: bytes, or the checkpoint's]",
            rich_help_panel=RUN,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="BACKEND:DEVICE", help="Where to train.  [default: torch:cpu]", rich_help_panel=RUN),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FOLDER", help="Of the run.  [default: MODEL-run]", rich_help_panel=RUN),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run, bit for bit; with --target on another.",
            rich_help_panel=RUN,
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps between checkpoints.  [default: 50 in a run]", rich_help_panel=RUN),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps between validations.  [default: 50 in a run]", rich_help_panel=RUN),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(metavar="K", help="Keep the newest K checkpoints.  [default: 3]", rich_help_panel=RUN)
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Settings by name, as a run writes them; options override it.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens a row.  [default: 1024]", rich_help_panel=RECIPE)
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens of the batch of a step.  [default: 262144]", rich_help_panel=RECIPE),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Rows of the batch of a step instead.", rich_help_panel=RECIPE)
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Rows that are computed together; gradients of the rest are added.  [default: as memory holds]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Of the optimiser.  [default: 125000]", rich_help_panel=RECIPE)
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps until the peak.  [default: 8% of the steps]", rich_help_panel=RECIPE),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="X", help="At the peak.  [default: 7e-4]", rich_help_panel=RECIPE)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(metavar="X", help="Of AdamW.  [default: 0.01]", rich_help_panel=RECIPE)
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Longest gradient of one parameter tensor; 0: none, as the paper has it for its vanilla Transformer."
            "  [default: 0.1]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    remat: Annotated[
        bool | None,
        typer.Option(
            "--remat/--no-remat", help="Compute activations twice instead of keeping them.", rich_help_panel=RECIPE
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of parameters and data order.  [default: 0]", rich_help_panel=RECIPE),
    ] = None,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    dtype: options.ComputeType = None,
    policy: options.GivenPolicy = None,
    as_json: options.Json = False,
) -> None:
    """Train a model on text, by the recipe of the paper.

    The chunk is planned for the target, then locked. The folder of the run has the recipe, the tokenizer, the curve
    (metrics.jsonl, tensorboard/) and the newest checkpoints, each a model that every other verb takes. Ctrl-C saves
    and stops; --resume goes on, also after a crash. Several processes, started by torchrun, train as one does.

    Examples:
        flashir train flash --size small --data books/ --steps 2000 --tokens 16384 -o run/
        flashir train --resume run/
        torchrun --nproc-per-node 8 -m flashir train --resume run/ --target torch:cuda
        flashir export run/ -o out/
        flashir train model.fir --data books/ --tokenizer bpe:32000 --target jax:cpu --recipe recipe.toml
        flashir train run/checkpoints/step-002000 --data letters.txt --learning-rate 1e-4 -o finetuned/
    """
    given = {
        "data": data and tuple(map(str, data)),
        "validation": validation and tuple(map(str, validation)),
        "tokenizer": tokenizer,
        "target": target,
        "seq_len": seq_len,
        "tokens": tokens,
        "rows": rows,
        "steps": steps,
        "warmup": warmup,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "clip": clip,
        "remat": remat,
        "seed": seed,
        "validate_every": validate_every,
        "save_every": save_every,
        "keep": keep,
    }
    given = {name: value for name, value in given.items() if value is not None}
    choices = {"chunk": chunk, "cumsum": cumsum, "dtype": dtype and dtype.value}
    with _one_voice() as meeting:
        if resume is not None:
            fixed: dict[str, object] = {
                "MODEL": model,
                "-s": settings,
                "--size": size,
                "--task": task,
                "--tokenizer": tokenizer,
                "-o": out,
            }
            fixed |= {"--recipe": recipe, "--chunk": chunk, "--cumsum": cumsum, "--dtype": dtype, "--policy": policy}
            _refuse(fixed, "a run that goes on has its own")
            folder, corpora, changes = _resumed(resume), None, _with_batch(given, batch, resume)
            meeting.join(changes.get("target", folder.recipe.target))
        else:
            choices["policy"] = (policy or options.Policy.QUALITY).value
            begin = partial(_begun, settings, size, task, given, choices)
            folder, corpora = _met(meeting, model, recipe, given, batch, out, begin)
            changes = {}
        _go_on(folder, meeting, corpora, changes, as_json)


@contextmanager
def _one_voice() -> Iterator[Meeting]:
    """The processes that train together. What all meet with, one tells."""
    from flashir.cli.group import MISUSED
    from flashir.errors import FlashirError
    from flashir.processes import Processes
    from flashir.train.meeting import Meeting

    meeting = Meeting(Processes.here())
    try:
        yield meeting
    except FlashirError:
        if meeting.speaks:
            raise
        raise typer.Exit(MISUSED) from None


def _meter(meeting: Meeting) -> AbstractContextManager[Step]:
    from flashir.cli.meter import meter

    return meter() if meeting.processes.is_first else nullcontext(lambda *_: None)


def _refuse(given: dict[str, Any], why: str) -> None:
    from flashir.errors import SettingError

    found = [name for name, value in given.items() if value is not None]
    if found:
        raise SettingError(f"{', '.join(found)} cannot be set: {why}")


def _resumed(path: Path) -> RunFolder:
    from flashir.errors import InputError
    from flashir.train.run_folder import RunFolder, is_run

    if not is_run(path):
        around = next((each for each in path.absolute().parents if is_run(each)), None)
        raise InputError(
            "this is not the folder of a run (it has no recipe.toml)" if path.exists() else "there is no such folder",
            where=str(path),
            mend="--resume takes the folder that -o named when the run began"
            if around is None
            else f"--resume {around}",
        )
    return RunFolder(path)


def _with_batch(given: dict[str, Any], batch: int | None, run: Path | None = None) -> dict[str, Any]:
    """The settings with `--batch` as tokens."""
    from flashir.cli.source import only_one
    from flashir.train.recipe import Recipe
    from flashir.train.run_folder import RunFolder

    if batch is None:
        return given
    only_one("--batch", batch, "--tokens", given.get("tokens"))
    length = given.get("seq_len", (Recipe() if run is None else RunFolder(run).recipe).seq_len)
    return {**given, "tokens": batch * length}


def _met(
    meeting: Meeting,
    word: str | None,
    file: Path | None,
    given: dict[str, Any],
    batch: int | None,
    out: Path | None,
    begin: Callable[[str, Recipe, Path, Told], Data],
) -> tuple[RunFolder, Data | None]:
    """The folder of a new run, which the first process alone begins, and its data where they are at hand."""
    from flashir.errors import SettingError
    from flashir.train.recipe import read_recipe, recipe_of
    from flashir.train.run_folder import RunFolder

    if word is None:
        raise SettingError("MODEL is missing", mend="a name of the zoo, a .fir file or a checkpoint; or --resume RUN")
    if file is not None and batch is not None:
        given = {**{name: value for name, value in read_recipe(file).items() if name == "seq_len"}, **given}
    made, folder = recipe_of(file, _with_batch(given, batch)), out or Path(f"{Path(word).stem or word}-run")
    meeting.join(made.target)
    is_first = meeting.processes.is_first
    with _meter(meeting) as step:
        data = meeting.together(lambda told: begin(word, made, folder, told) if is_first else None, step)
    return RunFolder(folder), data


def _begun(
    settings: list[str] | None,
    size: str | None,
    task: str | None,
    given: dict[str, Any],
    choices: dict[str, Any],
    word: str,
    made: Recipe,
    folder: Path,
    step: Told,
) -> Data:
    """The data of a new run, whose folder is made. All that can be wrong is found before it is."""
    from flashir.cli import source
    from flashir.train.data import documents
    from flashir.train.recipe import Recipe
    from flashir.train.setup import begin, task_of, tokenizer_of

    found = source.find(word, settings, size, task)
    if made.tokenizer == Recipe.tokenizer and "tokenizer" not in given and found.tokenizer is not None:
        made = replace(made, tokenizer=str(found.tokenizer))
    used = tokenizer_of(made.tokenizer, lambda: documents(made.data, step))
    if found.kind == "zoo" and "vocab" not in source.read_settings(settings or ()):
        vocab = used.needs(task_of(found.model)) if used.is_bytes else used.vocab
        found = source.find(word, [*(settings or ()), f"vocab={vocab}"], size, task)
    return begin(found.model, made, used, folder, found.params, step, **choices)[1]


def _go_on(folder: RunFolder, meeting: Meeting, data: Data | None, changes: dict[str, Any], as_json: bool) -> None:
    """The steps that are left, and what they came to. KeyboardInterrupt where somebody wanted to stop."""
    from flashir.cli.training import progress
    from flashir.train.loop import train as loop
    from flashir.train.setup import opened
    from flashir.train.signals import stopping

    with ExitStack() as held:
        with _meter(meeting) as step:
            run = held.enter_context(opened(folder, step, data, meeting, **changes))
        with stopping(alone=meeting.processes.count == 1) as stop:
            pace = loop(run, progress(), stop)
    if not run.is_first:
        return
    summary = _summary(run, pace)
    if as_json:
        console.emit(summary)
    else:
        _show(summary)
    if not summary["complete"]:
        console.note(f"`flashir train --resume {folder.path}` goes on")
        raise KeyboardInterrupt


def _summary(run: Run, pace: Pace) -> dict[str, Any]:
    """A run for machines: where it is, how far it came, and how fast."""
    from flashir.train.metrics import perplexity
    from flashir.train.run_folder import step_of

    lines = list(run.folder.curve.lines())
    validated = [line.validation_loss for line in lines if isinstance(line.validation_loss, float)]
    last, best = (validated[-1], min(validated)) if validated else (None, None)
    checkpoint = run.folder.newest()
    return {
        "run": str(run.folder.path),
        "checkpoint": str(checkpoint),
        "model": run.plan.model,
        "target": run.recipe.target,
        "parameters": run.plan.parameters,
        "chunk": run.plan.chunk,
        "cumsum": run.plan.cumsum,
        "steps": step_of(checkpoint),
        "of": run.recipe.steps,
        "complete": step_of(checkpoint) == run.recipe.steps,
        "resumed_from": run.done,
        "tokens": lines[-1].tokens if lines else 0,
        "loss": lines[-1].loss if lines else None,
        "validation_loss": last,
        "validation_perplexity": None if last is None else perplexity(last),
        "best_validation_loss": best,
        "seconds": pace.total,
        "tokens_per_second": pace.tokens_per_second,
        "roofline": pace.fraction,
        "waiting": pace.waiting,
    }


def _show(summary: dict[str, Any]) -> None:
    """A run for people."""
    facts = {
        "run": summary["run"],
        "model": f"{summary['model']} on {summary['target']}, {console.many(summary['parameters'])} parameters",
        "steps": f"{summary['steps']:,} of {summary['of']:,}, {summary['tokens']:,} tokens",
        "loss": "-" if summary["loss"] is None else f"{summary['loss']:.4f} nats",
    }
    if summary["validation_loss"] is not None:
        found = f"{summary['validation_loss']:.4f} nats, perplexity {summary['validation_perplexity']:,.4g}"
        facts["validation"] = f"{found}, the best {summary['best_validation_loss']:.4f}"
    if summary["tokens_per_second"] is not None:
        facts["speed"] = f"{summary['tokens_per_second']:,.0f} tokens/s, {summary['roofline']:.0%} of the roofline"
    if summary["waiting"] is not None:
        facts["data"] = f"{summary['waiting']:.2%} of the time waiting for them"
    console.show(console.facts(facts))
    console.say(f"{summary['checkpoint']}  (`flashir export`, `eval` and `run` take it)", "bold")
