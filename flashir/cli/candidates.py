"""How a plan is shown to people: its candidates as a table, the chosen one marked, and why."""

from __future__ import annotations

from rich.text import Text

from flashir.cli import console
from flashir.planning.candidates import Candidate
from flashir.planning.plan import Plan
from flashir.transforms.settle_choices import Settings

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
    names = _columns(plan.settings)
    lengths = [name for name in names if not isinstance(plan.settings.get(name), str)]
    columns = ["", *names, "predicted", *(MEASURED if measured else []), "peak memory", ""]
    table = console.table(*columns, right=(*lengths, "predicted", *MEASURED, "peak memory"))
    slowest = max(each.ms for each in plan.candidates)
    for each in plan.candidates:
        chosen = each.settings == plan.settings
        table.add_row(
            "*" if chosen else "",
            *(str(each.settings.get(name, "-")) for name in names),
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


def _columns(settings: Settings) -> list[str]:
    """The choices of a model, each a column; `chunk` and `cumsum` have one in any table, as in its JSON."""
    if any("." in name for name in settings):
        return list(settings)
    return list(dict.fromkeys(("chunk", *(name for name in settings if name != "cumsum"), "cumsum")))


def choice(plan: Plan) -> str:
    """What was chosen, in a few words."""
    return ", ".join([*(f"{name} {value}" for name, value in plan.settings.items()), time_of(plan)])


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
