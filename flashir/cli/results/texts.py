"""The JSON of verbs that run, train and evaluate models."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from flashir.bench.record import Machine
from flashir.cli.results.models import Weights


class RunResult(TypedDict):
    """One result of a run. The statistics are null for logits, and for a result without elements.

    Args:
        name: the name of the value in the model.
        shape: the shape of the array.
        mean: the mean of its elements.
        std: their standard deviation.
        min: the least.
        max: the largest.
    """

    name: str
    shape: list[int]
    mean: float | None
    std: float | None
    min: float | None
    max: float | None


class NextToken(TypedDict):
    """A likely next token.

    Args:
        token: its number.
        probability: its probability.
    """

    token: int
    probability: float


class Reference(TypedDict):
    """The reference of --verify.

    Args:
        against: the interpreter.
        input_shape: the shape of the input.
        weights: the parameters of the interpreter.
    """

    against: str
    input_shape: list[int]
    weights: Weights


class RanModel(TypedDict):
    """A model, run on a text or on an array.

    Args:
        model: MODEL as typed.
        target: such as onnx:cpu.
        chunk: the chunk of the model; null if it has none.
        cumsum: the strategy of the running sum; null if the model has none.
        tile: the tile of the model.
        weights: the parameters.
        logits: whether the first result is logits.
        shape: the shape of the first result.
        results: the results, in the order of the model.
        ms: the time of the fastest run, in milliseconds.
        tokens_per_second: tokens of the input per second.
        loss: nats per predicted token; null if the model does not predict the next token.
        perplexity: the perplexity per token.
        bits_per_byte: the same in bits, if tokens are bytes.
        top: the most likely next tokens.
        labels: the predicted labels by row, or by token; null if the model has no names of labels.
        out: the file of the first result.
        relative_error: with --verify, the largest error relative to the largest value.
        tolerance: with --verify, the limit of the error.
        ok: with --verify, whether the error is within the limit.
        compared: with --verify, the reference.
    """

    model: str
    target: str
    chunk: int | None
    cumsum: str | None
    tile: NotRequired[int]
    weights: Weights
    logits: bool
    shape: list[int]
    results: list[RunResult]
    ms: float
    tokens_per_second: float
    loss: float | None
    perplexity: float | None
    bits_per_byte: float | None
    top: list[NextToken]
    labels: list[Any] | None
    out: str | None
    relative_error: NotRequired[float]
    tolerance: NotRequired[float]
    ok: NotRequired[bool]
    compared: NotRequired[Reference]


class Continuation(TypedDict):
    """A prompt and the text that follows it.

    Args:
        prompt: the prompt.
        prompt_tokens: its number of tokens.
        text: the generated text.
        tokens: the generated tokens.
        stop: why the text ends: end, stop, length, limit, interrupted or error.
    """

    prompt: str
    prompt_tokens: int
    text: str
    tokens: list[int]
    stop: str | None


class GeneratedTexts(TypedDict):
    """Generated texts, and how fast they came.

    Args:
        model: MODEL as typed.
        target: such as onnx:cpu.
        seed: the seed of the sampling.
        weights: the parameters.
        prompt_ms: the time to read the prompts, in milliseconds.
        ms_per_token: the time between two tokens of a row; null if there are too few tokens.
        tokens_per_second: tokens of all rows per second; null if there are too few tokens.
        resident_bytes: the memory of the process; null if it is unknown.
        results: the texts.
    """

    model: str
    target: str
    seed: int
    weights: Weights
    prompt_ms: float | None
    ms_per_token: float | None
    tokens_per_second: float | None
    resident_bytes: int | None
    results: list[Continuation]


class TrainedModel(TypedDict):
    """A training run. Losses are in nats per predicted token or label.

    Args:
        run: the folder of the run.
        checkpoint: the newest checkpoint.
        model: MODEL as typed.
        target: such as torch:cpu.
        parameters: the number of learned scalars.
        chunk: the chunk of the model; null if it has none.
        cumsum: the strategy of the running sum; null if the model has none.
        steps: steps done.
        of: steps of the whole run.
        complete: whether all steps are done.
        resumed_from: the step that this command resumed at.
        tokens: tokens read.
        loss: the loss of the last step.
        validation_loss: the last validation loss.
        validation_perplexity: the perplexity of the last validation.
        validation_accuracy: the accuracy of the last validation, of labels.
        best_validation_loss: the least validation loss.
        seconds: seconds of this command.
        tokens_per_second: tokens per second.
        roofline: the fraction of the roofline that is reached.
        waiting: the share of the time that was spent waiting for data.
    """

    run: str
    checkpoint: str
    model: str
    target: str
    parameters: int
    chunk: int | None
    cumsum: str | None
    steps: int
    of: int
    complete: bool
    resumed_from: int
    tokens: int
    loss: float | None
    validation_loss: float | None
    validation_perplexity: float | None
    validation_accuracy: float | None
    best_validation_loss: float | None
    seconds: float
    tokens_per_second: float | None
    roofline: float | None
    waiting: float | None


PositionPart = TypedDict(
    "PositionPart", {"from": int, "to": int, "tokens": int, "loss": float, "perplexity": float | None}
)
PositionPart.__doc__ = """The tokens at some positions of their rows.

Args:
    from: the first position.
    to: the position after the last.
    tokens: the tokens that were predicted.
    loss: nats per token.
    perplexity: the perplexity; null beyond the range of floats.
"""


class EvaluatedText(TypedDict):
    """How well a model predicts a text.

    Args:
        model: MODEL as typed.
        target: such as onnx:cpu.
        seq_len: tokens per row.
        weights: the parameters.
        task: lm, or mlm, which predicts masked tokens.
        tokens: tokens that were predicted.
        words: words of the text.
        bytes: bytes of the text.
        loss: nats per predicted token.
        perplexity: the perplexity per token; null beyond the range of floats.
        accuracy: the share of tokens that were predicted right.
        word_perplexity: the perplexity per word; null for mlm.
        bits_per_byte: bits per byte of the text; null for mlm.
        by_position: with --by-position, the same by the position in a row.
    """

    model: str
    target: str
    seq_len: int
    weights: Weights
    task: str
    tokens: int
    words: int
    bytes: int
    loss: float
    perplexity: float | None
    accuracy: float
    word_perplexity: float | None
    bits_per_byte: float | None
    by_position: NotRequired[list[PositionPart]]


class LabelScore(TypedDict):
    """How well one label is predicted.

    Args:
        count: how often it is the true label.
        recall: the share of those that were predicted; null if there are none.
        precision: the share of its predictions that were right; null if there are none.
    """

    count: int
    recall: float | None
    precision: float | None


class EvaluatedLabels(TypedDict):
    """How well a model predicts labels.

    Args:
        model: MODEL as typed.
        target: such as onnx:cpu.
        seq_len: tokens per row.
        weights: the parameters.
        task: class, a label of each example, or tags, labels of words.
        examples: the number of examples.
        labels: the number of labels.
        loss: nats per label.
        accuracy: the share of labels that were predicted right.
        by_label: the score of each label.
    """

    model: str
    target: str
    seq_len: int
    weights: Weights
    task: str
    examples: int
    labels: int
    loss: float
    accuracy: float
    by_label: dict[str, LabelScore]


class ComparedRun(TypedDict):
    """One training run of a comparison. A run that diverged has no results, but `failed`.

    Args:
        name: the system.
        learning_rate: the learning rate.
        seed: the seed.
        parameters: the number of learned scalars.
        depth: the number of layers.
        chunk: the chunk of the model; null if it has none.
        failed: why the run diverged.
        tokens: tokens read.
        last_loss: the mean training loss of the last steps.
        validation_loss: the validation loss at the end.
        seconds_a_step: the median time of a step, in seconds.
        tokens_per_second: tokens per second.
        roofline: the fraction of the roofline that is reached.
        waiting: the share of the time that was spent waiting for data.
        train: tokens and training loss of each step.
        validation: tokens and loss of each validation.
        accuracy: of a task, the share of right answers by distance in chunks.
        by_position: of a text, the loss by the position of a token in its row.
    """

    name: str
    learning_rate: float
    seed: int
    parameters: int
    depth: int
    chunk: int | None
    failed: NotRequired[str]
    tokens: NotRequired[int]
    last_loss: NotRequired[float]
    validation_loss: NotRequired[float]
    seconds_a_step: NotRequired[float]
    tokens_per_second: NotRequired[float]
    roofline: NotRequired[float]
    waiting: NotRequired[float]
    train: NotRequired[list[list[float]]]
    validation: NotRequired[list[list[float]]]
    accuracy: NotRequired[dict[str, float]]
    by_position: NotRequired[list[PositionPart]]


class ComparedSystem(TypedDict):
    """A system at its best learning rate, over all seeds. One whose runs all failed has only `failed`.

    Args:
        name: the system.
        parameters: the number of learned scalars.
        depth: the number of layers.
        chunk: the chunk of the model; null if it has none.
        learning_rate: the best learning rate.
        seeds: the number of seeds.
        train_loss: the mean training loss at the end.
        validation_loss: the mean validation loss.
        perplexity: its perplexity.
        spread: the least and the largest perplexity of the seeds.
        tokens_per_second: tokens per second.
        waiting: the share of the time that was spent waiting for data.
        accuracy: of a task, the share of right answers of each seed by distance in chunks.
        failed: the runs that diverged, and why.
    """

    name: str
    parameters: int
    depth: int
    chunk: int | None
    learning_rate: NotRequired[float]
    seeds: NotRequired[int]
    train_loss: NotRequired[float]
    validation_loss: NotRequired[float]
    perplexity: NotRequired[float]
    spread: NotRequired[list[float]]
    tokens_per_second: NotRequired[float]
    waiting: NotRequired[float]
    accuracy: NotRequired[dict[str, list[float]]]
    failed: list[str]


class ComparedSystems(TypedDict):
    """Systems that were trained alike.

    Args:
        folder: the folder of the comparison.
        settings: what all runs have in common.
        machine: the machine.
        systems: the result of each system.
        runs: every run.
    """

    folder: str
    settings: dict[str, Any]
    machine: Machine
    systems: list[ComparedSystem]
    runs: list[ComparedRun]
