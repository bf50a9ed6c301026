"""The record of a benchmark: where and how it was run, and a row for every case, as one JSON file."""

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
        batch, seq_len: rows, and tokens a row.
        training: whether a training step was measured, or one run forward.
        chunk, cumsum, tile: as chosen; None where the model has none.
        dtype: that the model computes in.
        parameters: how many numbers it learns.
        predicted_ms, predicted_bytes: by the cost model; None where the plan says that it does not fit.
        floor_ms: no run can be faster by the roofline of the target's record; `floor` is what bounds it.
        samples_ms: a time a round.
        baseline_bytes: what the process had of the memory of the target when its framework was loaded, and nothing
            compiled; None where nobody can tell.
        peak_bytes: the most that it had while it ran, that included; on an accelerator, while it was compiled too.
        heat: those of the same heat were timed in turn.
        left_out: why it was not tried.
        failed: why it was tried, and did not end well; the samples are those before that.
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
        """Why it was not measured to the end; empty where it was."""
        return self.left_out or self.failed

    @property
    def choice(self) -> str:
        """What was chosen, such as `256 matmul` or `tile 64 scan`; `-` where there is nothing to choose."""
        tile = None if self.tile is None else f"tile {self.tile}"
        return " ".join(str(each) for each in (self.chunk, tile, self.cumsum) if each is not None) or "-"

    @property
    def name(self) -> str:
        """Such as `flash 256 matmul, onnx:cpu, 1 x 4096`."""
        system = f"{self.system} {self.choice}".removesuffix(" -")
        return f"{system}, {self.target}, {self.batch} x {self.seq_len}"

    @cached_property
    def times(self) -> Samples | None:
        """The samples, where there are any."""
        return Samples(self.samples_ms) if self.samples_ms else None

    @property
    def tokens_per_second(self) -> float | None:
        """At the median."""
        return 1e3 * self.batch * self.seq_len / self.times.median if self.times else None

    @property
    def fraction(self) -> float | None:
        """The share of the roofline that is reached: the floor over the median."""
        return self.floor_ms / self.times.median if self.times and self.floor_ms else None

    @property
    def memory(self) -> int | None:
        """Bytes that the case took beside what the process had before."""
        if self.peak_bytes is None or self.baseline_bytes is None:
            return None
        return max(0, self.peak_bytes - self.baseline_bytes)

    def as_dict(self) -> dict[str, Any]:
        """For machines: what is kept, and what follows from it."""
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
    """Where it was run.

    Args:
        processor: its name, and how many cores could be used; that of the card, too, where one was measured.
        cores: that number.
        memory_bytes: of main memory.
        system: the operating system.
        versions: of Python and of every library that speed depends on, by backend.
        commit: of flashir, where it is run from a checkout; ends in `-dirty` where files differ from it.
    """

    processor: Text
    cores: Count
    memory_bytes: Bytes
    system: Text
    versions: dict[Text, dict[Text, Text]]
    commit: Text | None = None

    @staticmethod
    def here(targets: tuple[str, ...]) -> Machine:
        """This machine, with the libraries behind some targets."""
        own = {"python": platform.python_version(), "flashir": __version__}
        found = {name.partition(":")[0]: backend_of(name).versions() for name in targets}
        device = next((d for _, d, _ in map(split_name, targets) if d != "cpu"), "cpu")
        return Machine(
            device_identity(device),
            available_cores(),
            total_memory(),
            platform.platform(),
            {"host": own, **found},
            _commit(),
        )


@dataclass(frozen=True)
class Predictor:
    """What the predictions and floors of a target come from: the main numbers of its record.

    Args:
        record: `shipped`, or that it was calibrated on this machine, and when.
        peak: operations a second in matrix products, per element type.
        bandwidth: bytes a second to and from the main memory.
        memory: bytes of it.
    """

    record: Text
    peak: dict[Text, float]
    bandwidth: float
    memory: float

    @staticmethod
    def of(name: str) -> Predictor:
        """That of a target as it is known now. Raises TargetError where it is not."""
        now, shipped = find_target(name), find_target(name, calibrated=False)
        made = "shipped" if now.sources == shipped.sources else now.sources["bandwidth"]  # no calibration is without it
        return Predictor(made, dict(now.peak), now.bandwidth, now.memory)


@dataclass(frozen=True)
class Record:
    """One run of the benchmark.

    Args:
        date: when it began, in UTC.
        settings: what was asked.
        machine: where.
        rows: every case.
        complete: whether it came to its end.
        targets: what predicted, for each; nothing in records of earlier versions.
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
        """`bench-20261124-123355`, for its files."""
        return f"bench-{datetime.fromisoformat(self.date):%Y%m%d-%H%M%S}"

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "rows": [row.as_dict() for row in self.rows]}

    def write(self, path: Path) -> None:
        """Write it as JSON with a digest, whole or not at all. Raises ArtefactError."""
        text = msgspec.json.format(msgspec.json.encode(sealed(self.as_dict())), indent=1)
        atomic_write(path, lambda file: file.write(text + b"\n"))


def new_record(settings: Mapping[str, Any], targets: tuple[str, ...]) -> Record:
    """A record that begins now, without rows yet. Raises TargetError where a backend is not installed."""
    return Record(
        datetime.now(UTC).isoformat(timespec="seconds"),
        dict(settings),
        Machine.here(targets),
        (),
        targets={name: Predictor.of(name) for name in targets},
    )


def read_record(path: Path) -> Record:
    """The record in a file; one of an earlier version has no digest.

    Raises:
        ArtefactError: it cannot be read, is none of this version, or is not what was written.
    """
    problem = "no record of `flashir bench`"
    said = parse_json(read_bytes(path, ArtefactError), path, ArtefactError, dict[str, Any], problem=problem)
    with guarded(path, ArtefactError, problem):
        found = msgspec.convert(said, Record)
        datetime.fromisoformat(found.date)
    if (found.format, found.schema) != (FORMAT, SCHEMA):
        raise ArtefactError(
            f"no record that this version of flashir reads: {found.format!r}, schema {found.schema}", where=str(path)
        )
    if KEY in said and not is_whole(said):
        hint = f"bring it back as it was; if you changed it yourself, take its {KEY} out"
        raise ArtefactError("it is damaged, or was changed since it was written", where=str(path), hint=hint)
    return found


def _commit() -> str | None:
    """The commit of the checkout that flashir lies in; None where it is installed, or there is no git."""
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():
        return None
    command = ("git", "-C", str(home), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return made.stdout.strip() or None
