"""How a plan is shown to people: its candidates as a table, the chosen one marked, and why."""

from __future__ import annotations

from rich.text import Text

from flashir.cli import console
from flashir.passes.choose import Candidate
from flashir.planning import Plan
from flashir.tune.space import Choice

BAR = 24
MEASURED = ("measured", "spread", "runs")
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def show_plan(plan: Plan, word: str) -> None:
    """Print a plan."""
    rows = "row" if plan.batch == 1 else "rows"
    work = f"{plan.batch} {rows} of {plan.seq_len} tokens{', a training step' if plan.training else ''}"
    console.say(f"{word} on {plan.target}: {work}, {console.many(plan.parameters)} parameters", "bold")
    console.say()
    measured = any(each.measured_ms is not None for each in plan.candidates)
    tiled = any(each.tile is not None for each in plan.candidates)
    columns = ["", "chunk", *(["tile"] if tiled else []), "cumsum", "predicted"]
    columns += [*(MEASURED if measured else []), "peak memory", ""]
    table = console.table(*columns, right=("chunk", "tile", "predicted", *MEASURED, "peak memory"))
    slowest = max(each.ms for each in plan.candidates)
    for each in plan.candidates:
        chosen = Choice.of(each) == Choice.of(plan)
        table.add_row(
            "*" if chosen else "",
            _number(each.chunk),
            *([_number(each.tile)] if tiled else []),
            each.cumsum or "-",
            console.milliseconds(each.predicted_ms),
            *(_measured(each) if measured else []),
            console.size(each.peak_bytes),
            _bar(each.ms / slowest if slowest else 0.0, chosen),
            style="bold green" if chosen else None,
        )
    console.show(table)
    console.say()
    console.say(plan.why)


def time_of(plan: Plan) -> str:
    """What a plan takes, as far as is known: as measured on this machine, else as predicted; and for what work.

    Where others were measured, or another length, the prediction is corrected by that.
    """
    found, rows = plan.chosen, f"{plan.batch} x " * (plan.batch > 1)
    work = f"for {rows}{plan.seq_len} tokens"
    if found.measured_ms is not None:
        return f"{console.milliseconds(found.measured_ms)} measured on this machine ({plan.measured_on}) {work}"
    if found.correction != 1:
        by = f"at {found.near} tokens" if found.near is not None else "of others"
        corrected = f"corrected by what was measured {by} on this machine"
        return f"{console.milliseconds(found.ms)} predicted {work}, {corrected}"
    return f"{console.milliseconds(found.predicted_ms)} predicted {work}"


def choice(plan: Plan) -> str:
    """What was chosen, in a few words."""
    parts = [f"chunk {plan.chunk}"] if plan.chunk is not None else []
    parts += [f"tile {plan.tile}"] if plan.tile is not None else []
    parts += [f"cumsum {plan.cumsum}"] if plan.cumsum is not None else []
    return ", ".join([*parts, time_of(plan)])


def _number(tokens: int | None) -> str:
    return "-" if tokens is None else str(tokens)


def _measured(candidate: Candidate) -> list[str]:
    """The time, how far its runs spread, and how many there were; blank where nothing was measured."""
    times = (candidate.measured_ms, candidate.spread_ms)
    runs = "" if candidate.runs is None else str(candidate.runs)
    return [*("" if each is None else console.milliseconds(each) for each in times), runs]


def _bar(share: float, chosen: bool) -> Text:
    """A bar in eighths of a character."""
    eighths = round(share * BAR * 8)
    text = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    return Text(text, "green" if chosen else "dim")
