"""flashir train: train a model on text, or resume a run."""

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
    from flashir.cli.results.texts import TrainedModel
    from flashir.train.distributed import Meeting
    from flashir.train.feed import Data
    from flashir.train.run_folder import RunFolder

GRACE_S = 5.0
"""Longer than the first of several processes needs to end, and torchrun to end the others."""
RECIPE, RUN = "Recipe", "Run"


def train(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A built-in model such as flash, a .fir file, a checkpoint folder, or a run."
        ),
    ] = None,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Training text: a file, or a folder of .txt; labelled examples: .jsonl; repeatable.",
            rich_help_panel=RUN,
        ),
    ] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            "--valid",
            metavar="PATH",
            help="Validation data.  [default: hold out 1% of the data]",
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
            help="Token after each document, or none; added to bytes and bpe:N.  [default: the one of the tokenizer, if"
            " any]",
            rich_help_panel=RUN,
        ),
    ] = None,
    special_tokens: Annotated[
        bool | None,
        typer.Option(
            "--special-tokens/--no-special-tokens",
            help="Read the names of special tokens as tokens.  [default: as text]",
            rich_help_panel=RUN,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="BACKEND:DEVICE", help="Target to train on.  [default: torch:cpu]", rich_help_panel=RUN),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Output folder for the run.  [default: MODEL-run, RUN-next]",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Resume a run, bit for bit, or on another --target. Other settings stay as they were.",
            rich_help_panel=RUN,
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps between checkpoints.  [default: 50 per run]", rich_help_panel=RUN),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps between validations.  [default: 50 per run]", rich_help_panel=RUN),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(metavar="K", help="Keep the newest K checkpoints.  [default: 3]", rich_help_panel=RUN)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="paper: the start and the rate of the paper, as for a width of 768; or a file of settings, such as the"
            " recipe.toml of a run. Options override it.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens per row.  [default: 1024]", rich_help_panel=RECIPE)
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens per batch.  [default: 262144]", rich_help_panel=RECIPE),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Rows per batch, instead of --tokens.", rich_help_panel=RECIPE)
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Rows computed at once, with gradient accumulation.  [default: as many as fit in memory]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Optimiser steps.  [default: 125000]", rich_help_panel=RECIPE)
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Warm-up steps, or a share of all steps, such as 0.3.  [default: 0.08]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Peak learning rate.  [default: 7e-4 at width 768, more at smaller widths]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Start of weights: fan_in, by width, or paper, 0.02.  [default: fan_in]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    token_frequencies: Annotated[
        bool | None,
        typer.Option(
            "--token-frequencies/--no-token-frequencies",
            help="Begin the logits at the log frequencies of tokens.  [default: where the logits have a bias]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(metavar="X", help="Weight decay of AdamW.  [default: 0.01]", rich_help_panel=RECIPE)
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Clip each tensor's gradient norm to X; 0 disables it, as in the paper for the vanilla Transformer."
            "  [default: 0.1]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    remat: Annotated[
        bool | None,
        typer.Option(
            "--remat/--no-remat", help="Recompute activations instead of saving them.", rich_help_panel=RECIPE
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of parameters and data order.  [default: 0]", rich_help_panel=RECIPE),
    ] = None,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    dtype: options.ComputeType = None,
    policy: options.GivenPolicy = None,
    as_json: options.Json = False,
) -> None:
    """Train a model on text or labelled examples, by the recipe of the paper.

    The chunk is planned for the target, then fixed. The run folder contains the recipe, the tokenizer, the curve
    (metrics.jsonl, tensorboard/) and the newest checkpoints; every other verb takes these as MODEL. Ctrl-C saves and
    stops. --resume resumes a run, also after a crash; with more --steps it goes further. Several processes, started by
    torchrun, train together.

    Documents are packed into rows, and tokens of a built-in model attend only to their own document. With
    -s segments=chunk, documents that share a chunk also attend to each other; with -s segments=false, all of a row do.
    Other models keep the inputs that they have.

    With -s predict=class or -s predict=tags, a model learns labels, from lines such as {"text": "..", "label": ".."} or
    {"tokens": ["..", ".."], "labels": ["..", ".."]}. Each row is one example, padded behind a mask.

    Examples:
        flashir train flash --size small --data books/ --steps 2000 --tokens 16384 -o run/
        flashir train --resume run/
        flashir train --resume run/ --steps 4000
        torchrun --nproc-per-node 8 -m flashir train --resume run/ --target torch:cuda
        flashir export run/ -o out/
        flashir train model.fir --data books/ --tokenizer bpe:32000 --target jax:cpu --recipe recipe.toml
        flashir train run/checkpoints/step-002000 --data letters.txt --learning-rate 1e-4 -o finetuned/
        flashir train flash --task mlm -s predict=class --data reviews.jsonl --seq-len 256 -o classes/
    """
    from flashir.cli.new_run import NewRun
    from flashir.errors import SettingError
    from flashir.interrupts import on_interrupt

    own_settings = {
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
        "warmup": int(warmup) if warmup is not None and warmup.is_integer() else warmup,
        "learning_rate": learning_rate,
        "init": init,
        "token_frequencies": token_frequencies,
        "weight_decay": weight_decay,
        "clip": clip,
        "remat": remat,
        "seed": seed,
        "validate_every": validate_every,
        "save_every": save_every,
        "keep": keep,
    }
    own_settings = {name: value for name, value in own_settings.items() if value is not None}
    choices = {"chunk": chunk, "cumsum": cumsum, "dtype": dtype and dtype.value}
    with _processes() as meeting:
        if resume is not None:
            fixed: dict[str, object] = {"MODEL": model, "-s": settings, "--size": size, "--task": task}
            fixed |= {"--tokenizer": tokenizer, "--document-end": document_end, "--special-tokens": special_tokens}
            fixed |= {"-o": out, "--recipe": recipe}
            fixed |= {"--chunk": chunk, "--cumsum": cumsum, "--dtype": dtype, "--policy": policy}
            ended = _resumed(resume, own_settings, batch, fixed, meeting)
        elif model is None:
            hint = "give a built-in model, a .fir file or a checkpoint; or --resume RUN"
            raise SettingError("MODEL is missing", hint=hint)
        else:
            choices["policy"] = (policy or options.Policy.QUALITY).value
            new = NewRun(model, settings, size, task, recipe, own_settings, batch, out, choices)
            with on_interrupt(new.interrupted), _meter(meeting) as step:
                folder, corpora = new.begun(meeting, step)
            ended = _trained(folder, meeting, corpora)
    if ended is not None:
        _tell(ended, as_json)


def _resumed(
    path: Path, changes: dict[str, Any], batch: int | None, fixed: dict[str, object], meeting: Meeting
) -> TrainedModel | None:
    """Resume a run with changed settings; see `_trained`."""
    from flashir.cli.new_run import with_batch
    from flashir.errors import SettingError
    from flashir.train.run_folder import found_run

    refused = [name for name, value in fixed.items() if value is not None]
    if refused:
        raise SettingError(
            f"{', '.join(refused)} cannot change when a run is resumed",
            where=f"--resume {path}",
            hint=f"leave it out; or start a new run from its newest checkpoint: flashir train {path} --data .. -o ..",
        )
    folder = found_run(path)
    recipe = folder.recipe
    meeting.join(changes.get("target", recipe.target))
    return _trained(folder, meeting, None, **with_batch(changes, batch, recipe.seq_len))


@contextmanager
def _processes() -> Iterator[Meeting]:
    """The processes that train together. The first reports an error of all processes; the launcher ends the others.

    A process that is not ended within a while has failed by itself, and reports its error.
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
    """Redirect the standard output of libraries such as gloo to standard error: it is for the result only."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _meter(meeting: Meeting) -> AbstractContextManager[Step]:
    from flashir.cli.meter import meter

    return meter() if meeting.processes.is_first else nullcontext(lambda *_: None)


def _trained(folder: RunFolder, meeting: Meeting, data: Data | None, **changes: Any) -> TrainedModel | None:
    """Run the remaining steps. Returns the summary of the run in the first process, None in the others."""
    from flashir.cli import outcome
    from flashir.cli.training import progress
    from flashir.interrupts import on_interrupt
    from flashir.train.loop import train as loop
    from flashir.train.open_run import opened
    from flashir.train.signals import stopping

    with ExitStack() as held:
        held.enter_context(on_interrupt(folder.interrupted))
        with _meter(meeting) as step:
            run = held.enter_context(opened(folder, step, data, meeting, **changes))
        with stopping(alone=meeting.processes.count == 1) as stop:
            meeting.together(lambda _: None)  # no step before every process handles interrupts
            pace = loop(run, progress(), stop)
    return outcome.summary(run, pace) if run.is_first else None


def _tell(ended: TrainedModel, as_json: bool) -> None:
    """Print the result of a run. Raises KeyboardInterrupt if it was interrupted."""
    from flashir.cli import outcome

    if not console.answer(ended, as_json):
        outcome.show(ended)
    if not ended["complete"]:
        console.note(f"`flashir train --resume {ended['run']}` resumes it")
        raise KeyboardInterrupt
