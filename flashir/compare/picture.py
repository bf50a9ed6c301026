"""A comparison as a picture: loss against tokens, and accuracy by distance or perplexity by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np

from flashir.compare.summary import best
from flashir.errors import TargetError

SMOOTH = 50
"""A train curve is drawn as this many means, because batches differ by more than systems do."""

Rows = Sequence[Mapping[str, Any]]


def draw(rows: Rows) -> str:
    """Plot the systems, each at its best learning rate and in the mean of its seeds, as SVG.

    Raises TargetError if matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise TargetError("matplotlib is not installed", hint="pip install 'flashir[train]'") from None
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flashir", "font.size": 9}):
        figure = Figure(figsize=(13, 4.2), layout="constrained")
        train, validation, last = figure.subplots(1, 3)
        for name in dict.fromkeys(row["name"] for row in rows):
            chosen = [row for row in best([row for row in rows if row["name"] == name]) if "failed" not in row]
            if chosen:
                _draw_curves(train, validation, chosen, name)
                _draw_reach(last, chosen, name)
        for axes, title in ((train, "Train"), (validation, "Validation")):
            axes.set(title=title, xlabel="tokens", xscale="log", ylabel="nats a token")
        for axes in (train, validation, last):
            axes.grid(alpha=0.3)
        last.legend()
        stream = StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _draw_curves(train: Any, validation: Any, rows: Rows, name: str) -> None:
    for axes, which in ((train, "train"), (validation, "validation")):
        tokens, losses = np.mean([np.array(row[which], np.float64).reshape(-1, 2) for row in rows], 0).T
        if which == "train":
            tokens, losses = _means(tokens), _means(losses)
        axes.plot(tokens, losses, label=name, linewidth=1.2)


def _draw_reach(axes: Any, rows: Rows, name: str) -> None:
    """Accuracy against the distance, or perplexity against the position."""
    if "accuracy" in rows[0]:
        distances = list(rows[0]["accuracy"])
        shares = np.mean([[row["accuracy"][distance] for distance in distances] for row in rows], 0)
        axes.plot(distances, shares, label=name, linewidth=1.2, marker="o")
        axes.set(title="Right answers", xlabel="chunks back", ylabel="share", ylim=(-0.03, 1.03))
    else:
        losses = np.mean([[part["loss"] for part in row["by_position"]] for row in rows], 0)
        ends = [part["to"] for part in rows[0]["by_position"]]
        axes.plot(ends, np.exp(losses), label=name, linewidth=1.2, marker="o")
        axes.set(title="By position", xlabel="position in the row", xscale="log", ylabel="perplexity")


def _means(values: Any) -> Any:
    """The means of SMOOTH parts, or fewer if there are fewer values."""
    return np.array([part.mean() for part in np.array_split(values, min(SMOOTH, len(values)))])
