"""The plots of a benchmark: time against length (Figures 5a, 6a), cost against chunk (Figure 8), predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flashir.bench.record import Record, Row
from flashir.cli import console
from flashir.cli.bench_page.plot import Axis, Point, Series, mark, plot
from flashir.ops.attention.chunk_choices import STRATEGIES

MIB = 2**20
DASHES = '<svg class="key" viewBox="-8 -6 16 12" aria-hidden="true"><path class="predicted" d="M-8 0H8"/></svg>'


@dataclass(frozen=True)
class Figure:
    """A plot with its title, and its legend as marks and names."""

    title: str
    svg: str
    legend: Sequence[tuple[str, str]]


Section = tuple[str, str, list[Figure]]


def figures(record: Record) -> Iterator[Section]:
    """Yield the heading, the text and the plots of every section that has plots."""
    rows = [row for row in record.rows if row.times]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.system for row in record.rows))}
    targets = list(dict.fromkeys(row.place for row in rows))
    step = "a training step" if any(row.training for row in rows) else "one run forward"
    sections: list[Section] = [
        (
            "Latency against length",
            f"The median of {step} at each length, with quartiles. If chunks are compared, the fastest one is shown.",
            [figure for target in targets for figure in _lengths(target, rows, numbers)],
        ),
        ("Cost against chunk size", "Time and memory for each strategy of the cumulative sum.", _sweeps(rows)),
        (
            "Predicted against measured",
            "The predictions of the cost model. Points on the line are exact; points above it took more.",
            [figure for target in targets for figure in _predictions(target, rows, numbers)],
        ),
    ]
    yield from (section for section in sections if section[2])


def _lengths(target: str, rows: Sequence[Row], numbers: dict[str, int]) -> Iterator[Figure]:
    here = sorted((row for row in rows if row.place == target), key=_median, reverse=True)
    best = {(row.system, row.seq_len): row for row in here}  # the fastest comes last
    fastest = sorted(best.values(), key=_seq_len)
    groups = [(name, number, [row for row in fastest if row.system == name]) for name, number in numbers.items()]
    lengths = sorted({row.seq_len for row in fastest})
    if len(lengths) < 2:
        return
    x = Axis("length, tokens", lengths)
    yield _figure(target, f"length-{target}", groups, _seq_len, x, Axis("milliseconds"), _time)


def _sweeps(rows: Sequence[Row]) -> list[Figure]:
    plots = []
    for system, target, seq_len in dict.fromkeys((row.system, row.place, row.seq_len) for row in rows):
        here = [row for row in rows if (row.system, row.place, row.seq_len) == (system, target, seq_len)]
        here = sorted((row for row in here if row.chunk), key=_chunk)
        chunks = sorted({row.chunk for row in here if row.chunk})
        if len(chunks) < 2:
            continue
        strategies = dict.fromkeys(row.cumsum for row in here)
        groups = [
            (strategy or "no sums", STRATEGIES.index(strategy) if strategy in STRATEGIES else len(STRATEGIES), [
                row for row in here if row.cumsum == strategy
            ])
            for strategy in strategies
        ]  # fmt: skip
        place, x = f"{system} on {target}, {seq_len:,} tokens", Axis("chunk, tokens", chunks)
        name = f"{system}-{target}-{seq_len}"
        plots.append(_figure(f"{place}: time", f"time-{name}", groups, _chunk, x, Axis("milliseconds"), _time))
        if all(row.memory for row in here):
            plots.append(_figure(f"{place}: memory", f"memory-{name}", groups, _chunk, x, Axis("MiB"), _space))
    return plots


def _predictions(target: str, rows: Sequence[Row], numbers: dict[str, int]) -> Iterator[Figure]:
    here = [row for row in rows if row.place == target and row.predicted_ms]
    spaced = [row for row in here if row.memory and row.predicted_bytes]
    kinds: list[tuple[str, str, list[Row], _Quantity]] = [
        ("time", "milliseconds", here, _time),
        ("memory", "MiB", spaced, _space),
    ]
    for measure, unit, measured, quantity in kinds:
        series = [
            Series(
                name,
                number,
                [_point(row, quantity.predicted(row) or 1.0, quantity) for row in measured if row.system == name],
                "marks",
            )
            for name, number in numbers.items()
            if any(row.system == name for row in measured)
        ]
        if series:
            svg = plot(
                _name(f"{measure}-predicted-{target}"),
                f"{target}: {measure}, predicted against measured",
                _about(series),
                series,
                Axis(f"predicted, {unit}"),
                Axis(f"measured, {unit}"),
                equal=True,
            )
            yield Figure(f"{target}: {measure}", svg, [(mark(own.number), own.name) for own in series])


@dataclass(frozen=True)
class _Quantity:
    """A quantity that is predicted and measured. Missing values are None."""

    measured: Callable[[Row], float | None]
    predicted: Callable[[Row], float | None]
    spread: Callable[[Row], tuple[float | None, float | None]]
    text: Callable[[float], str]


def _figure(
    title: str,
    name: str,
    groups: Sequence[tuple[str, int, Sequence[Row]]],
    place: Callable[[Row], float],
    x: Axis,
    y: Axis,
    quantity: _Quantity,
) -> Figure:
    """A plot of measurements as lines, and predictions of the same rows as dashes."""
    series = []
    groups = [group for group in groups if group[2]]
    for label, number, rows in groups:
        predicted = [Point(place(row), value) for row in rows if (value := quantity.predicted(row))]
        series.append(Series(label, number, [_point(row, place(row), quantity) for row in rows]))
        series += [Series(label, number, predicted, "dashes")] if len(predicted) > 1 else []
    legend = [(mark(number), label) for label, number, _ in groups]
    if any(own.style == "dashes" for own in series):
        legend.append((DASHES, "predicted"))
    return Figure(title, plot(_name(name), title, _about(series), series, x, y), legend)


def _point(row: Row, x: float, quantity: _Quantity) -> Point:
    value = quantity.measured(row) or 1.0
    facts = [f"{row.system} {row.choice.strip('-')}".strip(), f"{row.batch} x {row.seq_len:,}", quantity.text(value)]
    predicted = quantity.predicted(row)
    facts += [f"{quantity.text(predicted)} predicted"] if predicted else []
    low, high = quantity.spread(row)
    return Point(x, value, ", ".join(facts), low, high)


def _about(series: Sequence[Series]) -> str:
    """The numbers as text, for screen readers."""
    return " ".join(f"{point.text}." for own in series for point in own.points if point.text)


def _name(text: str) -> str:
    """A valid name of an element for any text."""
    return "".join(letter if letter.isascii() and letter.isalnum() else f"_{ord(letter):x}" for letter in text)


def _median(row: Row) -> float:
    return row.times.median if row.times else 0.0


def _seq_len(row: Row) -> float:
    return row.seq_len


def _chunk(row: Row) -> float:
    return row.chunk or 1


_time = _Quantity(
    measured=_median,
    predicted=lambda row: row.predicted_ms,
    spread=lambda row: row.times.quartiles if row.times else (None, None),
    text=console.milliseconds,
)
_space = _Quantity(
    measured=lambda row: row.memory and row.memory / MIB,
    predicted=lambda row: row.predicted_bytes and row.predicted_bytes / MIB,
    spread=lambda row: (None, None),
    text=lambda value: console.size(value * MIB),
)
