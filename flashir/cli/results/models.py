"""The JSON of verbs that read, plan, export and check models."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from flashir.cli.results.docstrings import inherits


class Weights(TypedDict):
    """Where the parameters of a model come from.

    Args:
        source: file, checkpoint, artefact or random.
        random: whether they are random, also those of an export.
        path: the file, checkpoint or export.
        seed: the seed of random parameters.
        scale: the scale of random parameters: init, as for training, or unit.
    """

    source: str
    random: bool
    path: NotRequired[str]
    seed: NotRequired[int]
    scale: NotRequired[str]


class NewModel(TypedDict):
    """A model as text.

    Args:
        model: the name of the built-in model.
        path: the file or checkpoint that was written; null if none was.
        parameters: the number of learned scalars.
        text: the model as IR text.
    """

    model: str
    path: str | None
    parameters: int
    text: str


class ImportedModel(TypedDict):
    """A model of another package, as a checkpoint.

    Args:
        family: the package that it comes from.
        structure: a short text about its layers.
        options: the options that were set or found.
        notes: what the import assumed, and how the result was verified.
        parameters: the number of learned scalars.
        path: the checkpoint.
    """

    family: str
    structure: str
    options: dict[str, Any]
    notes: list[str]
    parameters: int
    path: str


class StageText(TypedDict):
    """A model at one stage of lowering.

    Args:
        nodes: the number of nodes, also in bodies.
        text: the graph as IR text.
    """

    nodes: int
    text: str


class ShownModel(TypedDict):
    """A model at the stages that were asked for.

    Args:
        model: MODEL as typed.
        parameters: the number of learned scalars.
        shapes: the shape of each parameter.
        stages: the graph at each stage.
        printed: the texts of --print-after.
    """

    model: str
    parameters: int
    shapes: dict[str, list[int]]
    stages: dict[str, StageText]
    printed: list[str]


class ShownPage(TypedDict):
    """The page of --html.

    Args:
        model: MODEL as typed.
        html: the file.
        bytes: its size.
    """

    model: str
    html: str
    bytes: int


class Choices(TypedDict):
    """The values of the choices of a model, and what they cost.

    Further choices of the ops of a model, and of plug-ins, are fields of their own.

    Args:
        chunk: tokens that attend to each other quadratically; null if the model has no chunk.
        cumsum: the strategy of the running sum; null if the model has none.
        tile: tokens that are computed together, which does not change the function.
        choices: every choice by its full name, if several ops have a choice of the same name.
        predicted_ms: the predicted time in milliseconds.
        peak_bytes: the predicted peak memory of one device, in bytes.
        measured_ms: the time that `tune` measured, in milliseconds.
    """

    chunk: int | None
    cumsum: str | None
    tile: NotRequired[int | None]
    choices: NotRequired[dict[str, Any]]
    predicted_ms: float
    peak_bytes: int
    measured_ms: NotRequired[float]


@inherits(Choices)
class PlanCandidate(Choices):
    """One value for each choice, and its cost. Further choices are fields of their own, as in the plan.

    Args:
        spread_ms: the interquartile range of the measured runs, in milliseconds.
        runs: the number of measured runs.
    """

    spread_ms: NotRequired[float]
    runs: NotRequired[int]


class AllowedType(TypedDict):
    """A compute type that --dtype allows.

    Args:
        dtype: the type.
        ms: the time of the best plan in it, predicted or measured, in milliseconds.
        error: the expected error, relative to the largest result; null for float32, and where it was not computed.
        growth: the expected relative growth of perplexity; null likewise, and if the results are not logits.
        left_out: why it cannot be chosen; null if it can.
    """

    dtype: str
    ms: float | None
    error: float | None
    growth: float | None
    left_out: str | None


@inherits(Choices)
class PlannedModel(Choices):
    """The choices for a model on a target. Further choices of the ops of the model are fields of their own.

    Args:
        model: MODEL as typed.
        target: such as onnx:cpu.
        batch: rows over all devices.
        seq_len: tokens per row.
        training: whether the time is that of a training step.
        measured_on: the device of the measurement.
        parameters: the number of learned scalars.
        candidates: every candidate.
        why: why these choices, as text.
        dtype: the compute type, if several were allowed or a tolerance was given.
        types: every compute type that was allowed.
    """

    model: str
    target: str
    batch: int
    seq_len: int
    training: bool
    measured_on: NotRequired[str]
    parameters: int
    candidates: list[PlanCandidate]
    why: str
    dtype: NotRequired[str]
    types: NotRequired[list[AllowedType]]


class StoredMeasurements(TypedDict):
    """What --export of `tune` wrote.

    Args:
        file: the file.
        measurements: the number of measurements that were written.
    """

    file: str
    measurements: int


class AddedMeasurements(TypedDict):
    """What --import of `tune` added.

    Args:
        file: the first file.
        files: the files.
        measurements: the number of measurements that were new, or newer.
    """

    file: str
    files: list[str]
    measurements: int


class Parity(TypedDict):
    """One comparison that an export passed.

    Args:
        what: the side that was compared.
        against: the reference.
        batch: rows of the input.
        lengths: tokens of the rows: one number, or one per row.
        weights: the weights of both sides.
        relative_error: the largest error, relative to the largest value of the reference.
        tolerance: the limit of the error.
    """

    what: str
    against: str
    batch: int
    lengths: list[int]
    weights: str
    relative_error: float
    tolerance: float


class QuantisedWeights(TypedDict):
    """What narrow weights cost.

    Args:
        kind: the type of the weights.
        text: the text of the comparison.
        tokens: the tokens that were predicted.
        float_bytes: the size of the model with float32 weights.
        bytes: the size of the written model.
        float_loss: the loss of the float32 model, in nats per token.
        float_perplexity: its perplexity; null beyond the range of floats.
        loss: the loss of the written model.
        perplexity: its perplexity; null beyond the range of floats.
        growth: the relative growth of the perplexity.
    """

    kind: str
    text: str
    tokens: int
    float_bytes: int
    bytes: int
    float_loss: float
    float_perplexity: float | None
    loss: float
    perplexity: float | None
    growth: float


@inherits(PlannedModel)
class ExportedModel(PlannedModel):
    """A verified artefact, and the plan that it was made by.

    Args:
        path: the main file.
        files: the size of each file, in bytes.
        weights: the parameters inside.
        checks: the checks that it passed, as text.
        compared: the comparisons among them.
        notes: what a user should know about it.
        quantised: what narrow weights cost; null without --quantize.
    """

    path: str
    files: dict[str, int]
    weights: Weights
    checks: list[str]
    compared: list[Parity]
    notes: list[str]
    quantised: QuantisedWeights | None


class CheckedCase(TypedDict):
    """One comparison of a target with the float64 interpreter, or with another target.

    Args:
        target: the target.
        what: values or gradients.
        against: the interpreter, or another target.
        batch: rows of the input.
        length: tokens per row.
        relative_error: the largest error, relative to the largest value; null if there is no finite one.
        tolerance: the limit of the error.
        ok: whether the error is within the limit.
        problem: why the comparison failed.
        parameter: the parameter with the worst gradient.
    """

    target: str
    what: str
    against: str
    batch: int
    length: int
    relative_error: float | None
    tolerance: float
    ok: bool
    problem: NotRequired[str]
    parameter: NotRequired[str]


class CheckedModel(TypedDict):
    """A model compared with the float64 interpreter.

    Args:
        model: MODEL as typed.
        ok: whether every comparison passed.
        weights: the parameters of both sides.
        rows: the comparisons.
        left_out: lengths that would have taken too long.
        forward_only: targets without gradients.
    """

    model: str
    ok: bool
    weights: Weights
    rows: list[CheckedCase]
    left_out: list[int]
    forward_only: list[str]
