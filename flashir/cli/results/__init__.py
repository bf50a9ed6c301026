"""The JSON that each verb prints with `--json`: its types, and their JSON Schema."""

from __future__ import annotations

from typing import Any, NamedTuple

from flashir.cli.results import machine, models, texts


class Form(NamedTuple):
    """One form of the JSON of a verb.

    Args:
        type: the type of the value.
        when: the options that lead to it; empty for the usual form.
        is_list: whether the verb prints a list of such values.
    """

    type: Any
    when: str = ""
    is_list: bool = False


FORMS: dict[str, tuple[Form, ...]] = {
    "new": (Form(models.NewModel),),
    "import": (Form(models.ImportedModel),),
    "show": (Form(models.ShownModel), Form(models.ShownPage, "--html")),
    "ops": (Form(machine.OpList), Form(machine.Op, "NAME")),
    "plan": (Form(models.PlannedModel),),
    "tune": (
        Form(models.PlannedModel),
        Form(models.StoredMeasurements, "--export"),
        Form(models.AddedMeasurements, "--import"),
    ),
    "train": (Form(texts.TrainedModel),),
    "eval": (Form(texts.EvaluatedText), Form(texts.EvaluatedLabels, "a model that predicts labels")),
    "compare": (Form(texts.ComparedSystems),),
    "export": (Form(models.ExportedModel),),
    "generate": (Form(texts.GeneratedTexts),),
    "run": (Form(texts.RanModel),),
    "check": (Form(models.CheckedModel),),
    "bench": (Form(machine.BenchmarkRun), Form(machine.PublishedTable, "--published")),
    "targets": (
        Form(machine.TargetRecord, is_list=True),
        Form(machine.TargetRecord, "NAME"),
        Form(machine.AddedTarget, "--add"),
        Form(machine.RemovedTarget, "--remove"),
    ),
    "calibrate": (Form(machine.CalibratedTarget),),
    "doctor": (Form(machine.Installation),),
}
"""The forms of each verb."""

WITH_CHOICES = (models.Choices, models.PlanCandidate, models.PlannedModel, models.ExportedModel)
"""Types with a further field for each choice of the ops of a model."""
