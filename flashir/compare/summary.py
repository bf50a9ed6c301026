"""The results of a comparison by system: each at its best learning rate, over all seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import mean
from typing import Any

from flashir.train.metrics import perplexity

BASELINE = "transformer++"
BUDGET = "flash"
"""The system whose number of parameters the others are given."""

Rows = Sequence[Mapping[str, Any]]


def summaries(rows: Rows) -> list[dict[str, Any]]:
    """A summary for each system, in the order of its first run.

    The learning rate is the one with the lowest training loss at the end, over the seeds: the validation text does not
    choose it. Numbers are means over the seeds, with the least and the largest in `spread`. If a run of every rate
    failed, `failed` says why.
    """
    names = dict.fromkeys(row["name"] for row in rows)
    return [_summary([row for row in rows if row["name"] == name]) for name in names]


def best(rows: Rows) -> Rows:
    """The runs of one system at its best learning rate; all of them if a run of every rate failed.

    Rates are compared on the seeds that all of them have, if there are any.
    """
    by_rate = [list(same) for _, same in groupby(sorted(rows, key=_rate), key=_rate)]
    whole = [same for same in by_rate if not any("failed" in row for row in same)]
    if not whole:
        return rows
    shared = set.intersection(*map(_seeds, whole))
    return min(whole, key=lambda same: mean(row["last_loss"] for row in same if row["seed"] in shared or not shared))


def _seeds(rows: Rows) -> set[int]:
    return {row["seed"] for row in rows}


def _rate(row: Mapping[str, Any]) -> float:
    return float(row["learning_rate"])


def _summary(rows: Rows) -> dict[str, Any]:
    chosen = best(rows)
    entrant = {name: chosen[0][name] for name in ("name", "parameters", "depth", "chunk")}
    failed = [f"rate {row['learning_rate']:g}, seed {row['seed']}: {row['failed']}" for row in rows if "failed" in row]
    if any("failed" in row for row in chosen):
        return {**entrant, "failed": failed}
    losses = [row["validation_loss"] for row in chosen]
    summary = {
        **entrant,
        "learning_rate": chosen[0]["learning_rate"],
        "seeds": len(chosen),
        "train_loss": mean(row["last_loss"] for row in chosen),
        "validation_loss": mean(losses),
        "perplexity": perplexity(mean(losses)),
        "spread": [perplexity(min(losses)), perplexity(max(losses))],
        "tokens_per_second": mean(row["tokens_per_second"] for row in chosen),
        "waiting": mean(row["waiting"] for row in chosen),
        "failed": failed,
    }
    if "accuracy" in chosen[0]:
        distances = chosen[0]["accuracy"]
        summary["accuracy"] = {distance: [row["accuracy"][distance] for row in chosen] for distance in distances}
    return summary


def table(rows: Rows) -> str:
    """A Markdown table with a line per system: accuracy by distance for a task, perplexity for a text."""
    summed = summaries(rows)
    baseline = next((row["perplexity"] for row in summed if row["name"] == BASELINE and "perplexity" in row), None)
    budget = next((row["parameters"] for row in summed if row["name"] == BUDGET), None)
    distances = next((list(row["accuracy"]) for row in summed if "accuracy" in row), [])
    head = ["system", "parameters", "layers", "chunk", "rate", "seeds", "train loss"]
    if distances:
        head += [f"right at {distance}" for distance in distances]
    else:
        head += ["perplexity", "least to largest", *([f"against {BASELINE}"] if baseline else [])]
    lines = [[*head, "tokens/s"]]
    for row in summed:
        cells = [row["name"], _counted(row["parameters"], budget), str(row["depth"]), str(row["chunk"] or "-")]
        if "perplexity" not in row:
            lines.append([*cells, f"diverged: {'; '.join(row['failed'])}", *[""] * (len(lines[0]) - 5)])
            continue
        cells += [_rate_of(row, rows), str(row["seeds"]), f"{row['train_loss']:.4f}"]
        if distances:
            cells += [_shares(row["accuracy"][distance]) for distance in distances]
        else:
            low, high = row["spread"]
            cells += [f"{row['perplexity']:.3f}", f"{low:.3f} to {high:.3f}"]
            cells += [f"{row['perplexity'] / baseline - 1:+.1%}"] if baseline else []
        lines.append([*cells, f"{row['tokens_per_second']:,.0f}"])
    lines.insert(1, ["---", *("---:" for _ in lines[0][1:])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rate_of(summary: Mapping[str, Any], rows: Rows) -> str:
    """The rate of a system: `0.01`, or `0.01 (diverged at 1)` if it did at another one."""
    lost = {row["learning_rate"] for row in rows if row["name"] == summary["name"] and "failed" in row}
    rates = ", ".join(f"{rate:.2g}" for rate in sorted(lost))
    return f"{summary['learning_rate']:.2g}" + (f" (diverged at {rates})" if rates else "")


def _counted(parameters: int, budget: int | None) -> str:
    """`60,689 (+1.0%)`: a number of parameters, and how far it is from the budget."""
    return f"{parameters:,}" if budget in (None, parameters) else f"{parameters:,} ({parameters / budget - 1:+.1%})"


def _shares(values: Sequence[float]) -> str:
    """`0.99`, or `0.31, 1.00` for several seeds."""
    return ", ".join(f"{value:.2f}" for value in values)
