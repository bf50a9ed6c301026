"""The page of `flashir bench`: one file with plots and a table. It needs no network and no script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from flashir.bench.record import Record, Row
from flashir.cli import console
from flashir.cli.bench_page.plots import Figure, figures
from flashir.cli.page import theme

HERE = Path(__file__).parent
NUMBERS = ("median", "quartiles", "tokens/s", "memory", "predicted", "predicted memory", "floor", "of the floor")
COLUMNS = ("system", "target", "batch", "length", "chunk", "tile", "cumsum", *NUMBERS)


def page(record: Record) -> str:
    """The page as HTML."""
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title(record)),
        version=escape(record.machine.versions.get("host", {}).get("flashir", "?")),
        style=theme() + (HERE / "bench.css").read_text(encoding="utf-8"),
        chips="".join(f"<span><b>{escape(name)}</b> {escape(text)}</span>" for name, text in about(record).items()),
        figures="".join(_section(*section) for section in figures(record)),
        head="".join(f"<th{_number(name)}>{escape(name)}</th>" for name in COLUMNS),
        rows="".join(map(_row, record.rows)),
    )


def title(record: Record) -> str:
    """A short title: the systems, and the kind of work."""
    work = "training step" if any(row.training for row in record.rows) else "one run forward"
    return f"{', '.join(dict.fromkeys(row.system for row in record.rows))}: {work}"


def about(record: Record) -> dict[str, str]:
    """The settings and the machine of the measurement."""
    machine, settings = record.machine, record.settings
    packages = {name: text for versions in machine.versions.values() for name, text in versions.items()}
    shown = ("size", "task", "settings", "tokens", "policy", "dtype", "rounds")
    return {
        "date": record.date.replace("T", " ").removesuffix("+00:00") + " UTC",
        "processor": f"{machine.processor}, {console.size(machine.memory_bytes)}",
        **{name: _setting(settings[name]) for name in shown if settings.get(name)},
        **({"commit": machine.commit} if machine.commit else {}),
        "versions": ", ".join(f"{name} {text}" for name, text in packages.items()),
        "system": machine.system,
        **({} if record.complete else {"interrupted": "not every round was run"}),
    }


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _section(heading: str, text: str, plots: Sequence[Figure]) -> str:
    cards = "".join(
        f"<figure><figcaption><b>{escape(figure.title)}</b>{_legend(figure)}</figcaption>{figure.svg}</figure>"
        for figure in plots
    )
    return f'<section><h2>{escape(heading)}</h2><p>{escape(text)}</p><div class="figures">{cards}</div></section>'


def _legend(figure: Figure) -> str:
    return f"<ul>{''.join(f'<li>{sign}{escape(name)}</li>' for sign, name in figure.legend)}</ul>"


def _row(row: Row) -> str:
    chosen = (str(row.chunk or "-"), str(row.tile or "-"), row.cumsum or "-")
    names = (row.system, row.place, f"{row.batch:,}", f"{row.seq_len:,}", *chosen)
    left = "".join(f"<td{_number(column)}>{escape(text)}</td>" for column, text in zip(COLUMNS, names))
    if row.problem:
        return f'<tr class="problem">{left}<td colspan="{len(NUMBERS)}">{escape(_problem(row))}</td></tr>'
    return f"<tr>{left}{''.join(f'<td{_number(name)}>{text}</td>' for name, text in zip(NUMBERS, _numbers(row)))}</tr>"


def _problem(row: Row) -> str:
    return f"left out: {row.left_out}" if row.left_out else f"failed: {row.failed}"


def _numbers(row: Row) -> Iterator[str]:
    """The cells of a row without a problem; `-` for values that were not measured."""
    times = row.times
    yield console.milliseconds(times.median) if times else "-"
    yield " to ".join(map(console.milliseconds, times.quartiles)) if times else "-"
    yield f"{row.tokens_per_second:,.0f}" if row.tokens_per_second else "-"
    yield _shown(row.memory)
    yield console.milliseconds(row.predicted_ms) if row.predicted_ms else "-"
    yield _shown(row.predicted_bytes)
    yield f"{console.milliseconds(row.floor_ms)}, {escape(row.floor)}" if row.floor_ms else "-"
    yield f"{row.fraction:.0%}" if row.fraction else "-"


def _shown(count: int | None) -> str:
    return "-" if count is None else console.size(count)


def _number(column: str, words: Iterable[str] = ("system", "target", "cumsum")) -> str:
    return "" if column in words else ' class="number"'
