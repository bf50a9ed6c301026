"""Show a benchmark on a terminal or in a pipe, one line per case."""

from __future__ import annotations

from rich.table import Table

from flashir.bench.record import Record, Row
from flashir.cli import console
from flashir.cli.bench_page import title

LEAST = ("tokens/s", "spread", "predicted", "memory")
"""The columns to drop, in this order, if the terminal is too narrow."""


def show_record(record: Record) -> None:
    """Print the table, with a line per case. Values that all cases share are printed above it."""
    lines = [_cells(row) for row in record.rows]
    same = [name for name in ("target", "batch") if len({line[name] for line in lines}) == 1]
    console.say(title(record), "bold")
    common = [f"batch {lines[0][name]}" if name == "batch" else lines[0][name] for name in same]
    console.say(", ".join([*common, record.machine.processor, f"{record.settings.get('rounds')} rounds"]), "dim")
    console.say()
    without = next(
        (count for count in range(len(LEAST)) if _width(_table(lines, (*same, *LEAST[:count]))) <= console.out().width),
        len(LEAST),
    )
    console.show(_table(lines, (*same, *LEAST[:without])))
    if without:
        console.say(f"a wider terminal, or a pipe, also shows {' and '.join(LEAST[:without])}", "dim")
    for row in record.rows:
        if row.problem:
            state = "left out" if row.left_out else "failed"
            console.say(f"{state}: {row.name}: {row.problem}", "yellow")


def _table(lines: list[dict[str, str]], without: tuple[str, ...]) -> Table:
    """The table without some of the columns."""
    shown = [name for name in lines[0] if name not in without] if lines else []
    table = console.table(*shown, right=tuple(name for name in shown if name not in ("system", "target", "chunk")))
    for column in table.columns:
        column.no_wrap = True
    for line in lines:
        table.add_row(*(line[name] for name in shown))
    return table


def _width(table: Table) -> int:
    """The width of a table, in characters."""
    return console.out().measure(table, options=console.out().options.update(max_width=console.PIPE_WIDTH)).maximum


def _cells(row: Row) -> dict[str, str]:
    """The cells of a row by column. The median holds `left out` or `failed` if there is no measurement."""
    times = row.times
    lower, upper = times.quartiles if times else (0.0, 0.0)
    nothing = "left out" if row.left_out else "failed" if row.failed else "-"
    return {
        "system": row.system,
        "target": row.place,
        "batch": str(row.batch),
        "length": str(row.seq_len),
        "chunk": row.choice,
        "median": console.milliseconds(times.median) if times else nothing,
        "spread": f"{(upper - lower) / times.median:.0%}" if times else "",
        "tokens/s": f"{row.tokens_per_second:,.0f}" if row.tokens_per_second else "",
        "memory": console.size(row.memory) if row.memory is not None else "",
        "predicted": console.milliseconds(row.predicted_ms) if row.predicted_ms else "",
        "roofline": f"{row.fraction:.0%}" if row.fraction else "",
    }
