"""Print a plan: a table of its candidates with the chosen one marked, and the reason."""

from __future__ import annotations

from rich.text import Text

from flashir.cli import console
from flashir.ir.settings import Settings
from flashir.planning.candidates import Candidate
from flashir.planning.plan import Plan

BAR = 24
MEASURED = ("measured", "spread", "runs")
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def show_plan(plan: Plan, word: str) -> None:
    """Print a plan."""
    rows = "row" if plan.batch == 1 else "rows"
    work = f"{plan.batch} {rows} of {plan.seq_len} tokens{', a training step' if plan.training else ''}"
    console.say(f"{word} on {plan.target}: {work}, {console.many(plan.parameters)} parameters", "bold")
    console.say()
    measured = any(candidate.measured_ms is not None for candidate in plan.candidates)
    names = _columns(plan.settings)
    lengths = [name for name in names if not isinstance(plan.settings.get(name), str)]
    columns = ["", *names, "predicted", *(MEASURED if measured else []), "peak memory", ""]
    table = console.table(*columns, right=(*lengths, "predicted", *MEASURED, "peak memory"))
    slowest = max(candidate.ms for candidate in plan.candidates)
    for candidate in plan.candidates:
        chosen = candidate.settings == plan.settings
        table.add_row(
            "*" if chosen else "",
            *(str(candidate.settings.get(name, "-")) for name in names),
            console.milliseconds(candidate.predicted_ms),
            *(_measured(candidate) if measured else []),
            console.size(candidate.peak_bytes),
            _bar(candidate.ms / slowest if slowest else 0.0, chosen),
            style="bold green" if chosen else None,
        )
    console.show(table)
    console.say()
    console.say(plan.why)


def time_of(plan: Plan) -> str:
    """The time of a plan and its workload: measured on this machine, or predicted.

    Measurements of other candidates or lengths correct a prediction.
    """
    chosen, rows = plan.chosen, f"{plan.batch} x " * (plan.batch > 1)
    work = f"for {rows}{plan.seq_len} tokens"
    if chosen.measured_ms is not None:
        return f"{console.milliseconds(chosen.measured_ms)} measured on this machine ({plan.measured_on}) {work}"
    if chosen.correction != 1:
        by = f"at {chosen.near} tokens" if chosen.near is not None else "of other candidates"
        corrected = f"corrected by measurements {by} on this machine"
        return f"{console.milliseconds(chosen.ms)} predicted {work}, {corrected}"
    return f"{console.milliseconds(chosen.predicted_ms)} predicted {work}"


def _columns(settings: Settings) -> list[str]:
    """The columns of the choices. Every table has `chunk` and `cumsum`, like the JSON."""
    if any("." in name for name in settings):
        return list(settings)
    return list(dict.fromkeys(("chunk", *(name for name in settings if name != "cumsum"), "cumsum")))


def choice(plan: Plan) -> str:
    """A short text of the choices and the time."""
    return ", ".join([*(f"{name} {value}" for name, value in plan.settings.items()), time_of(plan)])


def _measured(candidate: Candidate) -> list[str]:
    """The measured time, its spread, and the number of runs; blank if there is no measurement."""
    times = (candidate.measured_ms, candidate.spread_ms)
    runs = "" if candidate.runs is None else str(candidate.runs)
    return [*("" if ms is None else console.milliseconds(ms) for ms in times), runs]


def _bar(share: float, chosen: bool) -> Text:
    """A bar with a resolution of an eighth of a character."""
    eighths = round(share * BAR * 8)
    text = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    return Text(text, "green" if chosen else "dim")
