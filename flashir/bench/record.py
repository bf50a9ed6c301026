"""The record of a benchmark as one JSON file: the machine, the settings, and a row per case."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from flashir.backends.registry import backend_of
from flashir.bench.interleaved import Samples
from flashir.cost.target import split_name
from flashir.errors import ArtefactError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import guarded, parse_json, read_bytes
from flashir.files.sealed_json import KEY, is_whole, sealed
from flashir.machine.hardware import available_cores, device_identity
from flashir.machine.memory import total_memory
from flashir.machine.targets import target as find_target
from flashir.version import __version__

FORMAT, SCHEMA = "flashir-bench", 1

Text = Annotated[str, Meta(max_length=10_000)]
Count = Annotated[int, Meta(ge=1, le=2**40)]
Bytes = Annotated[int, Meta(ge=0, le=2**60)]
Milliseconds = Annotated[float, Meta(gt=0, le=1e12)]


@dataclass(frozen=True)
class Row:
    """One case, as planned and as measured.

    Args:
        system: MODEL as typed.
        target: such as `onnx:cpu`.
        batch, seq_len: rows, and tokens per row.
        training: whether a training step or a forward run was measured.
        chunk, cumsum, tile: the choices; None if the model has none.
        dtype: the compute dtype of the model.
        parameters: the number of learned scalars.
        predicted_ms, predicted_bytes: the predictions; None if the plan does not fit.
        floor_ms, floor: the roofline bound of the target, and what bounds it.
        samples_ms: one time per round.
        baseline_bytes: the memory of the process on the target after its framework was loaded, before compiling; None
            if unknown.
        peak_bytes: the peak memory while it ran, including the baseline; on an accelerator also while it compiled.
        heat: the number of the timing group. The cases of a group were timed in turn.
        left_out: why it was not tried.
        failed: why it failed; the samples are those before the failure.
    """

    system: Text
    target: Text
    batch: Count
    seq_len: Count
    training: bool = False
    chunk: Count | None = None
    cumsum: Text | None = None
    dtype: Text = "f32"
    parameters: Annotated[int, Meta(ge=0)] = 0
    predicted_ms: Milliseconds | None = None
    predicted_bytes: Bytes | None = None
    floor_ms: Milliseconds | None = None
    floor: Text = ""
    tile: Count | None = None
    samples_ms: tuple[Milliseconds, ...] = ()
    baseline_bytes: Bytes | None = None
    peak_bytes: Bytes | None = None
    heat: Annotated[int, Meta(ge=0)] = 0
    left_out: Text = ""
    failed: Text = ""

    @property
    def problem(self) -> str:
        """Why it was not measured completely; empty if it was."""
        return self.left_out or self.failed

    @property
    def choice(self) -> str:
        """The choices, such as `256 matmul` or `tile 64 scan`; `-` if there are none."""
        tile = None if self.tile is None else f"tile {self.tile}"
        return " ".join(str(value) for value in (self.chunk, tile, self.cumsum) if value is not None) or "-"

    @property
    def place(self) -> str:
        """The target with a narrow compute type, such as `torch:cpu bf16`."""
        return self.target if self.dtype == "f32" else f"{self.target} {self.dtype}"

    @property
    def name(self) -> str:
        """A name such as `flash 256 matmul, onnx:cpu, 1 x 4096`."""
        system = f"{self.system} {self.choice}".removesuffix(" -")
        return f"{system}, {self.place}, {self.batch} x {self.seq_len}"

    @cached_property
    def times(self) -> Samples | None:
        """The samples; None if there are none."""
        return Samples(self.samples_ms) if self.samples_ms else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second at the median time."""
        return 1e3 * self.batch * self.seq_len / self.times.median if self.times else None

    @property
    def fraction(self) -> float | None:
        """The fraction of the roofline that is reached: the floor over the median."""
        return self.floor_ms / self.times.median if self.times and self.floor_ms else None

    @property
    def memory(self) -> int | None:
        """The memory of the case without the baseline, in bytes."""
        if self.peak_bytes is None or self.baseline_bytes is None:
            return None
        return max(0, self.peak_bytes - self.baseline_bytes)

    def as_dict(self) -> dict[str, Any]:
        """The fields and derived values as a JSON object."""
        times = self.times
        return {
            **asdict(self),
            "median_ms": times and times.median,
            "quartiles_ms": times and times.quartiles,
            "tokens_per_second": self.tokens_per_second,
            "fraction": self.fraction,
            "memory_bytes": self.memory,
        }


@dataclass(frozen=True)
class Machine:
    """The machine of a run.

    Args:
        processor: the name of the processor with its available cores, and of the GPU if one was measured.
        cores: the number of available cores.
        memory_bytes: bytes of main memory.
        system: the operating system.
        versions: the versions of Python and of every library that speed depends on, by backend.
        commit: the commit of flashir if it runs from a checkout; ends in `-dirty` if files differ from it.
    """

    processor: Text
    cores: Count
    memory_bytes: Bytes
    system: Text
    versions: dict[Text, dict[Text, Text]]
    commit: Text | None = None

    @staticmethod
    def here(targets: tuple[str, ...]) -> Machine:
        """This machine, with the libraries of these targets."""
        own = {"python": platform.python_version(), "flashir": __version__}
        versions = {name.partition(":")[0]: backend_of(name).versions() for name in targets}
        device = next((d for _, d, _ in map(split_name, targets) if d != "cpu"), "cpu")
        return Machine(
            device_identity(device),
            available_cores(),
            total_memory(),
            platform.platform(),
            {"host": own, **versions},
            _commit(),
        )


@dataclass(frozen=True)
class Predictor:
    """The numbers of a target record behind its predictions and floors.

    Args:
        record: `shipped`, or when it was calibrated on this machine.
        peak: floating-point operations per second in matrix products, per dtype.
        bandwidth: bytes per second of main memory.
        memory: bytes of main memory.
    """

    record: Text
    peak: dict[Text, float]
    bandwidth: float
    memory: float

    @staticmethod
    def of(name: str) -> Predictor:
        """The numbers of the current record of a target. Raises TargetError if it is unknown."""
        now, shipped = find_target(name), find_target(name, calibrated=False)
        origin = "shipped" if now.sources == shipped.sources else now.sources["bandwidth"]  # always calibrated
        return Predictor(origin, dict(now.peak), now.bandwidth, now.memory)


@dataclass(frozen=True)
class Record:
    """One run of the benchmark.

    Args:
        date: the start of the run, in UTC.
        settings: the settings of the run.
        machine: the machine.
        rows: one row per case.
        complete: whether the run finished.
        targets: the predictor of each target; empty in records of earlier versions.
    """

    date: Text
    settings: dict[Text, Any]
    machine: Machine
    rows: tuple[Row, ...]
    complete: bool = True
    targets: dict[Text, Predictor] = field(default_factory=dict)
    format: str = FORMAT
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        """The name of its files, such as `bench-20261124-123355`."""
        return f"bench-{datetime.fromisoformat(self.date):%Y%m%d-%H%M%S}"

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "rows": [row.as_dict() for row in self.rows]}

    def write(self, path: Path) -> None:
        """Write the record atomically as JSON with a digest. Raises ArtefactError."""
        text = msgspec.json.format(msgspec.json.encode(sealed(self.as_dict())), indent=1)
        atomic_write(path, lambda file: file.write(text + b"\n"))


def new_record(settings: Mapping[str, Any], targets: tuple[str, ...]) -> Record:
    """A record without rows that starts now. Raises TargetError if a backend is not installed."""
    return Record(
        datetime.now(UTC).isoformat(timespec="seconds"),
        dict(settings),
        Machine.here(targets),
        (),
        targets={name: Predictor.of(name) for name in targets},
    )


def read_record(path: Path) -> Record:
    """Read a record. One of an earlier version has no digest.

    Raises:
        ArtefactError: it cannot be read, has another schema version, or was changed.
    """
    problem = "no record of `flashir bench`"
    document = parse_json(read_bytes(path, ArtefactError), path, ArtefactError, dict[str, Any], problem=problem)
    with guarded(path, ArtefactError, problem):
        record = msgspec.convert(document, Record)
        datetime.fromisoformat(record.date)
    if (record.format, record.schema) != (FORMAT, SCHEMA):
        raise ArtefactError(
            f"no record that this version of flashir reads: {record.format!r}, schema {record.schema}", where=str(path)
        )
    if KEY in document and not is_whole(document):
        hint = f"restore the original; if you changed it yourself, remove its {KEY}"
        raise ArtefactError("it is damaged, or was changed since it was written", where=str(path), hint=hint)
    return record


def _commit() -> str | None:
    """The commit of the checkout of flashir; None if it is installed as a package, or git is missing."""
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():
        return None
    command = ("git", "-C", str(home), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    try:
        git = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return git.stdout.strip() or None
