"""The loss curves of several runs as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np

from flashir.errors import TargetError
from flashir.train.metrics import perplexity

BASELINE = "transformer++"
SMOOTH = 50
"""A train curve is drawn as this many means, because batches differ by more than systems do."""

Rows = Sequence[Mapping[str, Any]]


def table(rows: Rows) -> str:
    """A Markdown table with a line per system, and the perplexity relative to Transformer++ if it is present."""
    baseline = next((perplexity(row["validation_loss"]) for row in rows if row["name"] == BASELINE), None)
    head = ["system", "parameters", "layers", "chunk", "train loss", "validation loss", "perplexity"]
    head += [f"against {BASELINE}"] if baseline else []
    lines = [[*head, "tokens/s", "roofline", "waiting for data"]]
    for row in rows:
        value = perplexity(row["validation_loss"])
        cells = [row["name"], f"{row['parameters'] / 1e6:.3f}M", str(row["depth"]), str(row["chunk"] or "-")]
        cells += [f"{_last(row):.4f}", f"{row['validation_loss']:.4f}", f"{value:.3f}"]
        cells += [f"{value / baseline - 1:+.1%}"] if baseline else []
        speed = (f"{row['tokens_per_second']:,.0f}", f"{row['roofline']:.0%}", f"{row['waiting']:.2%}")
        lines.append([*cells, *speed])
    lines.insert(1, ["---", *("---:" for _ in lines[0][1:])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(rows: Rows) -> str:
    """Plot training and validation loss against tokens as SVG. Raises TargetError if matplotlib is missing."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise TargetError("matplotlib is not installed", hint="pip install 'flashir[train]'") from None
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flashir", "font.size": 9}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        for axes, which, title in zip(
            figure.subplots(1, 2, sharey=True), ("train", "validation"), ("Train", "Validation")
        ):
            for row in rows:
                tokens, losses = np.array(row[which], np.float64).reshape(-1, 2).T
                if which == "train":
                    tokens, losses = _means(tokens), _means(losses)
                axes.plot(tokens, losses, label=row["name"], linewidth=1.2)
            axes.set(title=title, xlabel="tokens", xscale="log")
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("nats a token")
        figure.axes[1].legend()
        stream = StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _means(values: Any) -> Any:
    """The means of SMOOTH parts, or fewer if there are fewer values."""
    return np.array([part.mean() for part in np.array_split(values, min(SMOOTH, len(values)))])


def _last(row: Mapping[str, Any]) -> float:
    """The mean loss of the last part of the train curve."""
    return float(_means(np.array(row["train"])[:, 1])[-1])
