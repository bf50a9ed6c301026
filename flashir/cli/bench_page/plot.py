"""Plots as SVG with logarithmic axes. Every text is escaped. Colours come from the page, light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log, log10

WIDTH, HEIGHT = 480.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 14.0, 48.0
MARGIN = 1.18  # around the data, as a factor
APART = 40.0  # distance between the labels of two ticks
HUES = 8
MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",  # circle
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 -4.8L4.6 3.6H-4.6z",
    "M0 4.8L4.6 -3.6H-4.6z",
)


@dataclass(frozen=True)
class Point:
    """A point of a plot. `low` and `high` are the ends of its whisker, and `text` is its tooltip."""

    x: float
    y: float
    text: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one colour and mark; `style` is `line`, `dashes` (no marks) or `marks` (no line)."""

    name: str
    number: int
    points: Sequence[Point]
    style: str = "line"


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis: its title with the unit, and its ticks; round numbers by default."""

    title: str
    ticks: Sequence[float] = ()


def plot(
    name: str, title: str, description: str, series: Sequence[Series], x: Axis, y: Axis, *, equal: bool = False
) -> str:
    """A plot as SVG.

    Args:
        name: the name of the element, unique in the page.
        title, about: the title and the description for screen readers.
        series: the series, with at least one point.
        x, y: the axes.
        equal: give both axes the same range, and draw the diagonal.
    """
    points = [point for lines in series for point in lines.points]
    xs = [point.x for point in points]
    ys = [value for point in points for value in (point.y, point.low, point.high) if value]
    if equal:
        xs = ys = [*xs, *ys]
    across, up = _Scale.over(xs, LEFT, WIDTH - RIGHT), _Scale.over(ys, HEIGHT - BOTTOM, TOP)
    elements = [*_grid(across, up, x, y)]
    if equal:
        elements.append(f'<path class="same" d="M{LEFT} {HEIGHT - BOTTOM}L{WIDTH - RIGHT} {TOP}"/>')
    for lines in sorted(series, key=lambda own: own.style != "dashes"):  # measurements over predictions
        elements += _series(lines, across, up)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
        f"{''.join(elements)}</svg>"
    )


def mark(number: int) -> str:
    """The mark of a series for a legend, as SVG."""
    return f'<svg class="key h{number % HUES}" viewBox="-8 -6 16 12" aria-hidden="true">{_mark(number, 0, 0)}</svg>'


def round_numbers(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, and for a short axis also 2 and 5 times those."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    steps = (1, 2, 5) if log10(high / low) < 2.6 else (1,)
    return [tick for d in decades for step in steps if low <= (tick := step * 10.0**d) <= high]


@dataclass(frozen=True)
class _Scale:
    """A logarithmic map from [low, high] to [begin, end]."""

    low: float
    high: float
    begin: float
    end: float

    @staticmethod
    def over(values: Sequence[float], begin: float, end: float) -> _Scale:
        low, high = min(values), max(values)
        margin = MARGIN if high / low > MARGIN else 2.0
        return _Scale(low / margin, high * margin, begin, end)

    def __call__(self, value: float) -> float:
        return self.begin + (self.end - self.begin) * log(value / self.low) / log(self.high / self.low)

    def ticks(self, wanted: Sequence[float]) -> Iterator[tuple[float, bool]]:
        """Yield every tick, and whether there is room for its label."""
        last: float | None = None
        for tick in sorted(wanted) or round_numbers(self.low, self.high):
            room = last is None or abs(self(tick) - last) >= APART / 2 * (2 if self.end > self.begin else 1)
            last = self(tick) if room else last
            yield tick, room


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    for tick, labelled in across.ticks(x.ticks):
        at = across(tick)
        yield f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>'
        if labelled:
            yield f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{_number(tick)}</text>'
    for tick, labelled in up.ticks(y.ticks):
        at = up(tick)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        if labelled:
            yield f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="name" x="{middle:.1f}" y="{HEIGHT - 9}" text-anchor="middle">{escape(x.title)}</text>'
    height = (TOP + bottom) / 2
    turned = f'transform="translate(13 {height:.1f}) rotate(-90)"'
    yield f'<text class="name" {turned} text-anchor="middle">{escape(y.title)}</text>'


def _series(series: Series, across: _Scale, up: _Scale) -> Iterator[str]:
    places = [(across(point.x), up(point.y)) for point in series.points]
    yield f'<g class="series {series.style} h{series.number % HUES}">'
    if series.style != "marks" and len(places) > 1:
        yield f'<path class="run" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>'
    for point, (x, y) in zip(series.points, places, strict=True):
        if series.style == "dashes":
            continue
        whisker = ""
        if point.low and point.high:
            whisker = f'<path class="whisker" d="M{x:.1f} {up(point.low):.1f}V{up(point.high):.1f}"/>'
        yield f"<g><title>{escape(point.text)}</title>{whisker}{_mark(series.number, x, y)}</g>"
    yield "</g>"


def _mark(number: int, x: float, y: float) -> str:
    return f'<path class="mark" d="{MARKS[number % len(MARKS)]}" transform="translate({x:.1f} {y:.1f})"/>'


def _number(value: float) -> str:
    return f"{value:,.6g}" if value < 1e6 else f"{value:.0e}".replace("e+0", "e")
