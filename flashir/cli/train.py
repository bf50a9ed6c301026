"""flashir train: from text to a trained model, and on from where a run was left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.meter import Step
    from flashir.train.distributed import Meeting
    from flashir.train.run_folder import RunFolder
    from flashir.train.setup import Data

GRACE_S = 5.0
"""More than the first of several processes takes to end, and torchrun to end the others then."""
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
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Text to learn from: a file, or a folder of .txt; repeatable.",
            rich_help_panel=RUN,
        ),
    ] = None,
    validation: Annotated[
        list[str] | None,
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
    document_end: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="The token that each document ends with, or none; bytes and bpe:N are given it.  [default: the one of"
            " the tokenizer, if any]",
            rich_help_panel=RUN,
        ),
    ] = None,
    special_tokens: Annotated[
        bool | None,
        typer.Option(
            "--special-tokens/--no-special-tokens",
            help="Read a special token where a text names one.  [default: it is text]",
            rich_help_panel=RUN,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="BACKEND:DEVICE", help="Where to train.  [default: torch:cpu]", rich_help_panel=RUN),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FOLDER", help="Of the run.  [default: MODEL-run, RUN-next]", rich_help_panel=RUN
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run, bit for bit; with --target elsewhere. Other settings are as it began.",
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

    Documents are packed into rows. A model with segments is told which document each token is of: with
    -s segments=token no document sees another, with -s segments=chunk those that share a chunk do.

    Examples:
        flashir train flash --size small --data books/ --steps 2000 --tokens 16384 -o run/
        flashir train --resume run/
        torchrun --nproc-per-node 8 -m flashir train --resume run/ --target torch:cuda
        flashir export run/ -o out/
        flashir train model.fir --data books/ --tokenizer bpe:32000 --target jax:cpu --recipe recipe.toml
        flashir train run/checkpoints/step-002000 --data letters.txt --learning-rate 1e-4 -o finetuned/
    """
    from flashir.cli.new_run import NewRun
    from flashir.errors import SettingError
    from flashir.interrupts import kept

    given = {
        "data": data and tuple(data),
        "validation": validation and tuple(validation),
        "tokenizer": tokenizer,
        "document_end": document_end,
        "special_tokens": special_tokens,
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
            fixed: dict[str, object] = {"MODEL": model, "-s": settings, "--size": size, "--task": task}
            fixed |= {"--tokenizer": tokenizer, "--document-end": document_end, "--special-tokens": special_tokens}
            fixed |= {"-o": out, "--recipe": recipe}
            fixed |= {"--chunk": chunk, "--cumsum": cumsum, "--dtype": dtype, "--policy": policy}
            ended = _resumed(resume, given, batch, fixed, meeting)
        elif model is None:
            hint = "a name of the zoo, a .fir file or a checkpoint; or --resume RUN"
            raise SettingError("MODEL is missing", hint=hint)
        else:
            choices["policy"] = (policy or options.Policy.QUALITY).value
            made = NewRun(model, settings, size, task, recipe, given, batch, out, choices)
            with kept(made.interrupted), _meter(meeting) as step:
                folder, corpora = made.begun(meeting, step)
            ended = _gone_on(folder, meeting, corpora)
    if ended is not None:
        _tell(ended, as_json)


def _resumed(
    path: Path, given: dict[str, Any], batch: int | None, fixed: dict[str, object], meeting: Meeting
) -> dict[str, Any] | None:
    """A run that goes on, with what may change; as `_gone_on`."""
    from flashir.cli.new_run import with_batch
    from flashir.errors import SettingError
    from flashir.train.run_folder import found_run

    refused = [name for name, value in fixed.items() if value is not None]
    if refused:
        raise SettingError(
            f"{', '.join(refused)} cannot be set: a run that goes on has its own, from when it began",
            where=f"--resume {path}",
            hint=f"leave it out; or begin another run from its newest checkpoint: flashir train {path} --data .. -o ..",
        )
    folder = found_run(path)
    recipe = folder.recipe
    meeting.join(given.get("target", recipe.target))
    return _gone_on(folder, meeting, None, **with_batch(given, batch, recipe.seq_len))


@contextmanager
def _one_voice() -> Iterator[Meeting]:
    """The processes that train together. What all meet with, the first tells, and its launcher ends the others.

    One that nobody ends in a while has met with something of its own, and tells that.
    """
    from flashir.errors import FlashirError
    from flashir.machine.processes import Processes
    from flashir.train.distributed import Meeting

    meeting = Meeting(Processes.here())
    try:
        with nullcontext() if meeting.processes.count == 1 else _silent_libraries():
            yield meeting
    except FlashirError:
        if not meeting.speaks:
            sleep(GRACE_S)
        raise


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Standard output is for the result: what libraries write there, as gloo does when processes meet, is an aside."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _meter(meeting: Meeting) -> AbstractContextManager[Step]:
    from flashir.cli.meter import meter

    return meter() if meeting.processes.is_first else nullcontext(lambda *_: None)


def _gone_on(folder: RunFolder, meeting: Meeting, data: Data | None, **changes: Any) -> dict[str, Any] | None:
    """What the steps that were left came to; nothing but in the first process."""
    from flashir.cli import outcome
    from flashir.cli.training import progress
    from flashir.interrupts import kept
    from flashir.train.loop import train as loop
    from flashir.train.open_run import opened
    from flashir.train.signals import stopping

    with ExitStack() as held:
        held.enter_context(kept(folder.interrupted))
        with _meter(meeting) as step:
            run = held.enter_context(opened(folder, step, data, meeting, **changes))
        with stopping(alone=meeting.processes.count == 1) as stop:
            meeting.together(lambda _: None)  # no step before every process can be asked to stop
            pace = loop(run, progress(), stop)
    return outcome.summary(run, pace) if run.is_first else None


def _tell(ended: dict[str, Any], as_json: bool) -> None:
    """Print what a run came to. KeyboardInterrupt where somebody wanted to stop it."""
    from flashir.cli import outcome

    if not console.answer(ended, as_json):
        outcome.show(ended)
    if not ended["complete"]:
        console.note(f"`flashir train --resume {ended['run']}` goes on")
        raise KeyboardInterrupt
