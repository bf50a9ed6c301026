"""The JSON of verbs about targets, this machine, benchmarks and ops."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, TypedDict, get_type_hints

from flashir.bench.record import Record, Row
from flashir.cli.results.docstrings import inherits


class Number(TypedDict):
    """A number of a target record.

    Args:
        value: the number, in units without prefix: operations or bytes per second, bytes, seconds.
        source: where it comes from.
    """

    value: float
    source: str


class TargetRecord(TypedDict):
    """A device that flashir can plan for.

    Args:
        target: its name, such as onnx:cpu.
        title: a text for people.
        backend: the backend.
        device: the device.
        installed: whether the backend is installed.
        at_hand: whether this machine has the device.
        fuses: whether elementwise ops fuse with their neighbours.
        epilogues: whether they fuse with matrix products too.
        recomputes: whether cheap values are computed again rather than stored.
        numbers: the numbers of the cost model.
    """

    target: str
    title: str
    backend: str
    device: str
    installed: bool
    at_hand: bool
    fuses: bool
    epilogues: bool
    recomputes: bool
    numbers: dict[str, Number]


class AddedTarget(TypedDict):
    """A target record that --add of `targets` stored.

    Args:
        added: its name.
        title: a text for people.
    """

    added: str
    title: str


class RemovedTarget(TypedDict):
    """A target record that --remove of `targets` removed.

    Args:
        removed: its name.
        file: the file that it was in.
    """

    removed: str
    file: str


class Fitted(TypedDict):
    """A number before and after calibration.

    Args:
        before: the number of the record.
        after: the fitted number; null if its benchmark does not determine it.
    """

    before: float
    after: float | None


class KernelTime(TypedDict):
    """The time of a micro-benchmark.

    Args:
        ms: the median, in milliseconds.
        spread: the distance of the quartiles, relative to the median.
    """

    ms: float
    spread: float


class CalibratedTarget(TypedDict):
    """A target record that was fitted to this machine.

    Args:
        target: such as onnx:cpu.
        numbers: the fitted numbers.
        not_told: the numbers that no benchmark determined.
        timings: the time of each micro-benchmark.
        share: the share of the processor that calibration got.
        path: the stored profile.
    """

    target: str
    numbers: dict[str, Fitted]
    not_told: list[str]
    timings: dict[str, KernelTime]
    share: float
    path: str


class PartState(TypedDict):
    """The state of one part of the installation.

    Args:
        what: the part.
        state: ok, absent (optional, and not installed) or broken.
        detail: versions, or what is wrong.
        mend: how to mend it; empty if nothing is wrong.
    """

    what: str
    state: str
    detail: str
    mend: str


class Installation(TypedDict):
    """The state of this installation.

    Args:
        ok: whether nothing is broken.
        findings: the state of each part.
    """

    ok: bool
    findings: list[PartState]


_CASE = get_type_hints(Row, include_extras=True)
_DERIVED = {
    "median_ms": float | None,
    "quartiles_ms": list[float] | None,
    "tokens_per_second": float | None,
    "fraction": float | None,
    "memory_bytes": int | None,
}
MeasuredCase: Any = TypedDict("MeasuredCase", _CASE | _DERIVED)  # type: ignore[misc]  # the fields of a row, not again
MeasuredCase.__doc__ = f"""{cleandoc(Row.__doc__ or "")}
    median_ms: the median of the samples; null without samples.
    quartiles_ms: their quartiles.
    tokens_per_second: tokens per second at the median.
    fraction: the fraction of the roofline that is reached.
    memory_bytes: the peak memory without the baseline.
"""

_RECORD = get_type_hints(Record, include_extras=True)
_FILES = {"rows": list[MeasuredCase], "results": str | None, "report": str | None}
BenchmarkRun: Any = TypedDict("BenchmarkRun", _RECORD | _FILES)  # type: ignore[misc]
BenchmarkRun.__doc__ = f"""{cleandoc(Record.__doc__ or "")}
    format: the format of the file with the results.
    results: that file; null if it could not be written.
    report: the page with plots; null if none was written.
"""


class PublishedTime(TypedDict):
    """A number of a published table, and its prediction.

    Args:
        system: the system.
        seq_len: tokens per row.
        published_ms: the published time, in milliseconds.
        predicted_ms: the predicted time.
        peak_bytes: the predicted peak memory.
        error: the relative error of the prediction; negative if it is too short.
    """

    system: str
    seq_len: int
    published_ms: float
    predicted_ms: float
    peak_bytes: int
    error: float


class PublishedTable(TypedDict):
    """A published table with predictions.

    Args:
        title: its title.
        source: where it was published.
        task: the task of the models.
        size: their size.
        target: the machine.
        tokens: tokens per batch.
        median_error: the median of the absolute errors.
        worst_error: the largest absolute error.
        misordered: length and names of systems that are predicted in the wrong order.
        rows: every number.
    """

    title: str
    source: str
    task: str
    size: str
    target: str
    tokens: int
    median_error: float
    worst_error: float
    misordered: list[list[int | str]]
    rows: list[PublishedTime]


class OpSummary(TypedDict):
    """An op.

    Args:
        name: its name in IR text.
        group: layers, attention, functions or primitive; of other ops, their plug-in.
        doc: what it computes.
    """

    name: str
    group: str
    doc: str


class OpList(TypedDict):
    """All ops.

    Args:
        ops: the ops, layers first.
    """

    ops: list[OpSummary]


class OpSetting(TypedDict):
    """A setting of an op. Values are IR text, so that "none" is a string and none is no value.

    Args:
        name: its name.
        types: the accepted types.
        default: its default; null if it is required.
        choices: the accepted values; empty for any.
        auto: the candidates of the compiler where it is auto; null if it cannot be auto.
        least: the least number.
        most: the largest number.
        doc: what it does.
    """

    name: str
    types: list[str]
    default: str | None
    choices: list[str]
    auto: list[str] | None
    least: float | None
    most: int | None
    doc: str


class OpParameter(TypedDict):
    """A parameter of an op, as in its example.

    Args:
        name: its name.
        shape: its shape.
    """

    name: str
    shape: list[int]


class OpShapes(TypedDict):
    """The types of one use of an op.

    Args:
        operands: the types of the operands.
        results: the types of the results.
    """

    operands: list[str]
    results: list[str]


class OpBackend(TypedDict):
    """A backend that implements an op natively, without its decomposition.

    Args:
        backend: its name.
        devices: the devices.
        always: whether it does so on all of its devices and for all samples of the op.
    """

    backend: str
    devices: list[str]
    always: bool


@inherits(OpSummary)
class Op(OpSummary):
    """An op, with all that its record says.

    Args:
        operands: their names; `x?` is optional, `xs*` stands for any number.
        settings: its settings, in order.
        parameters: the parameters that it owns in its example.
        shapes: the types of each sample.
        source: where it was published; null if nowhere.
        primitive: whether it has no decomposition.
        backends: the backends that implement it natively.
        example: a model with it, as IR text.
    """

    operands: list[str]
    settings: list[OpSetting]
    parameters: list[OpParameter]
    shapes: list[OpShapes]
    source: str | None
    primitive: bool
    backends: list[OpBackend]
    example: str
