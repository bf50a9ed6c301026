"""The result of a training run, as JSON and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashir.cli import console
from flashir.models.checkpoint import step_of
from flashir.reference.finite import representable
from flashir.train.data import LABELLED
from flashir.train.metrics import perplexity
from flashir.train.open_run import Run
from flashir.train.pace import Pace
from flashir.train.task import task_of

if TYPE_CHECKING:
    from flashir.cli.results.texts import TrainedModel


def summary(run: Run, pace: Pace) -> TrainedModel:
    """The JSON form of a run: its folder, its progress and its speed."""
    lines = list(run.folder.curve.lines())
    validated = [line.validation_loss for line in lines if isinstance(line.validation_loss, float)]
    last, best = (validated[-1], min(validated)) if validated else (None, None)
    of_labels = task_of(run.plan.graph) in LABELLED
    accuracies = [line.validation_accuracy for line in lines if isinstance(line.validation_accuracy, float)]
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
        "validation_perplexity": None if last is None or of_labels else representable(perplexity(last)),
        "validation_accuracy": accuracies[-1] if accuracies else None,
        "best_validation_loss": best,
        "seconds": pace.total,
        "tokens_per_second": pace.tokens_per_second,
        "roofline": pace.fraction,
        "waiting": pace.waiting,
    }


def show(result: TrainedModel) -> None:
    """Print a run."""
    facts = {
        "run": result["run"],
        "model": f"{result['model']} on {result['target']}, {console.many(result['parameters'])} parameters",
        "steps": f"{result['steps']:,} of {result['of']:,}, {console.counted(result['tokens'], 'token')}",
        "loss": "-" if result["loss"] is None else f"{result['loss']:.4f} nats",
    }
    if result["validation_loss"] is not None:
        surprise, accuracy = result["validation_perplexity"], result["validation_accuracy"]
        is_accuracy = surprise is None and accuracy is not None
        by = f"accuracy {accuracy:.2%}" if is_accuracy else f"perplexity {console.large(surprise)}"
        facts["validation"] = f"{result['validation_loss']:.4f} nats, {by}, best {result['best_validation_loss']:.4f}"
    if result["tokens_per_second"] is not None:
        facts["speed"] = f"{result['tokens_per_second']:,.0f} tokens/s, {result['roofline']:.0%} of the roofline"
    if result["waiting"] is not None:
        facts["data"] = f"{result['waiting']:.2%} of the time spent waiting"
    console.show(console.facts(facts))
    console.say(f"{result['checkpoint']}  (for `flashir export`, `eval` and `run`)", "bold")
