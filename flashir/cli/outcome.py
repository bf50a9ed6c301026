"""What a run came to: for machines, and for people."""

from __future__ import annotations

from typing import Any

from flashir.cli import console
from flashir.models.checkpoint import step_of
from flashir.reference.finite import representable
from flashir.train.metrics import perplexity
from flashir.train.open_run import Run
from flashir.train.pace import Pace


def summary(run: Run, pace: Pace) -> dict[str, Any]:
    """A run for machines: where it is, how far it came, and how fast."""
    lines = list(run.folder.curve.lines())
    validated = [line.validation_loss for line in lines if isinstance(line.validation_loss, float)]
    last, best = (validated[-1], min(validated)) if validated else (None, None)
    checkpoint = run.folder.newest()
    return {
        "run": str(run.folder.path),
        "checkpoint": str(checkpoint),
        "model": run.plan.model,
        "target": run.recipe.target,
        "parameters": run.plan.parameters,
        "chunk": run.plan.chunk,
        "cumsum": run.plan.cumsum,
        "steps": step_of(checkpoint),
        "of": run.recipe.steps,
        "complete": step_of(checkpoint) == run.recipe.steps,
        "resumed_from": run.done,
        "tokens": lines[-1].tokens if lines else 0,
        "loss": lines[-1].loss if lines else None,
        "validation_loss": last,
        "validation_perplexity": None if last is None else representable(perplexity(last)),
        "best_validation_loss": best,
        "seconds": pace.total,
        "tokens_per_second": pace.tokens_per_second,
        "roofline": pace.fraction,
        "waiting": pace.waiting,
    }


def show(found: dict[str, Any]) -> None:
    """A run for people."""
    facts = {
        "run": found["run"],
        "model": f"{found['model']} on {found['target']}, {console.many(found['parameters'])} parameters",
        "steps": f"{found['steps']:,} of {found['of']:,}, {console.counted(found['tokens'], 'token')}",
        "loss": "-" if found["loss"] is None else f"{found['loss']:.4f} nats",
    }
    if found["validation_loss"] is not None:
        loss = f"{found['validation_loss']:.4f} nats, perplexity {console.large(found['validation_perplexity'])}"
        facts["validation"] = f"{loss}, the best {found['best_validation_loss']:.4f}"
    if found["tokens_per_second"] is not None:
        facts["speed"] = f"{found['tokens_per_second']:,.0f} tokens/s, {found['roofline']:.0%} of the roofline"
    if found["waiting"] is not None:
        facts["data"] = f"{found['waiting']:.2%} of the time waiting for them"
    console.show(console.facts(facts))
    console.say(f"{found['checkpoint']}  (`flashir export`, `eval` and `run` take it)", "bold")
