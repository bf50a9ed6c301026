"""Displays training on stderr: live on a terminal, as occasional lines elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from flashir.cli import console
from flashir.cli.forecast import LONG_S, duration
from flashir.train.data import LABELLED
from flashir.train.loop import Progress
from flashir.train.metrics import Line, perplexity
from flashir.train.open_run import Run
from flashir.train.pace import Pace
from flashir.train.task import task_of

EVERY_S = 10.0
"""Seconds between two lines in a pipe, unless there is a validation."""
REFRESH_S = 0.1
BAR = 40


def progress() -> Progress:
    """A live display if stderr is a terminal, otherwise lines."""
    errors = console.err()
    return LiveTraining(errors) if errors.is_terminal else PlainTraining(errors)


def about(run: Run) -> str:
    """One line on the model, the target and the batch."""
    recipe, plan = run.recipe, run.plan
    parts = f"{recipe.accumulate} x " if recipe.accumulate > 1 else ""
    chosen = [f"{name} {value}" for name in ("chunk", "tile", "cumsum") if (value := getattr(plan, name)) is not None]
    return ", ".join(
        [
            f"{plan.model} on {recipe.target}: {console.many(plan.parameters)} parameters",
            *chosen,
            f"{parts}{console.counted(recipe.rows or 1, 'row')} of {console.counted(recipe.seq_len, 'token')} per step",
        ]
    )


def forecast(run: Run) -> str:
    """How long the steps will take by the cost model, before one is measured."""
    each_ms, left = run.plan.predicted_ms * run.recipe.accumulate, run.recipe.steps - run.done
    seconds = each_ms / 1e3 * left
    advice = "; fewer --steps or --tokens, a smaller model or another --target shorten it" if seconds >= LONG_S else ""
    per_step, steps = console.milliseconds(each_ms), console.counted(left, "step")
    return f"{per_step} a step by the cost model, {duration(seconds)} for {steps}{advice}"


def numbers(line: Line, pace: Pace, run: Run) -> dict[str, str]:
    """The numbers of a step as text, as far as they are known."""
    steps, of_labels = run.recipe.steps, task_of(run.plan.graph) in LABELLED
    shown = {"loss": f"{line.loss:.4f}"} | ({} if of_labels else {"perplexity": f"{perplexity(line.loss):,.4g}"})
    if isinstance(line.validation_loss, float) and isinstance(line.validation_accuracy, float):
        accuracy, surprise = line.validation_accuracy, perplexity(line.validation_loss)
        measured = f"accuracy {accuracy:.2%}" if of_labels else f"perplexity {surprise:,.4g}"
        shown["validation"] = f"{line.validation_loss:.4f}, {measured}"
    if pace.tokens_per_second is not None and pace.fraction is not None:
        shown |= {"tokens/s": f"{pace.tokens_per_second:,.0f}", "roofline": f"{pace.fraction:.0%}"}
    if pace.waiting is not None:
        shown["waiting for data"] = f"{pace.waiting:.2%}"
    if pace.seconds is not None and steps > line.step:
        shown["ETA"] = duration(pace.seconds * (steps - line.step))
    return shown


@dataclass
class PlainTraining:
    """Prints a line for the first step, for every validation and checkpoint, and every few seconds."""

    to: Console
    _run: Run | None = None
    _printed: float = -inf
    _told: float = inf

    def started(self, run: Run) -> None:
        """Print what is trained."""
        self._run = run
        self._say(about(run))
        for note in run.batches.notes:
            self._say(note)
        if run.done:
            self._say(f"resumes after step {run.done} of {run.recipe.steps}")
        self._say(forecast(run))
        self._told = monotonic()

    def computing(self, step: int, part: int, parts: int) -> None:
        """Print the part of a long step, if it is time."""
        if monotonic() - self._told >= EVERY_S:
            self._told = monotonic()
            self._say(f"step {step}: part {part} of {parts}")

    def stepped(self, line: Line, pace: Pace) -> None:
        """Print the step, if it is time."""
        assert self._run is not None
        if isinstance(line.validation_loss, float) or monotonic() - self._printed >= EVERY_S:
            self._printed = self._told = monotonic()
            shown = "  ".join(f"{name} {text}" for name, text in numbers(line, pace, self._run).items())
            self._say(f"step {line.step}/{self._run.recipe.steps}  {shown}")

    def saved(self, checkpoint: Path) -> None:
        """Print the folder of the checkpoint."""
        self._say(f"saved {checkpoint}")

    def finished(self) -> None:
        """Nothing."""

    def _say(self, line: str) -> None:
        self.to.print(line, soft_wrap=True)


@dataclass
class LiveTraining:
    """A bar and the numbers of the latest step, drawn between steps and removed at the end."""

    to: Console
    _run: Run | None = None
    _shown: dict[str, str] = field(default_factory=dict)
    _validation: str = ""
    _checkpoint: str = ""
    _step: int = 0
    _part: str = ""
    _live: Live | None = None
    _drawn: float = 0.0

    def started(self, run: Run) -> None:
        """Start to draw."""
        self._run, self._step = run, run.done
        for note in run.batches.notes:
            self.to.print(note)
        self._live = Live(self._picture(), console=self.to, auto_refresh=False, transient=True)
        self._live.start(refresh=True)

    def computing(self, step: int, part: int, parts: int) -> None:
        """Show the part of a step that is computed."""
        self._part = f", part {part} of {parts} of the next" if parts > 1 else ""
        self._draw(now=False)

    def stepped(self, line: Line, pace: Pace) -> None:
        """Show the step."""
        assert self._run is not None
        self._step, self._shown, self._part = line.step, numbers(line, pace, self._run), ""
        validation = self._shown.pop("validation", None)
        if validation is not None:
            self._validation = f"{validation} after step {line.step}"
        self._draw(now=validation is not None)

    def saved(self, checkpoint: Path) -> None:
        """Show the folder of the checkpoint."""
        self._checkpoint = str(checkpoint)
        self._draw(now=True)

    def finished(self) -> None:
        """Stop drawing and restore the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, *, now: bool) -> None:
        if self._live is not None and (now or monotonic() - self._drawn >= REFRESH_S):
            self._drawn = monotonic()
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        assert self._run is not None
        steps = self._run.recipe.steps
        shown = {
            "step": f"{self._step:,} of {steps:,}{self._part}",
            **(self._shown or {"forecast": forecast(self._run)}),
        }
        optional = {"validation": self._validation, "saved": self._checkpoint}
        shown |= {name: text for name, text in optional.items() if text}
        bar = ProgressBar(total=steps, completed=self._step, width=BAR)
        hint = Text("Ctrl-C saves and stops", style="dim")
        return Group(Text(about(self._run), "bold"), bar, console.facts(shown), hint)
