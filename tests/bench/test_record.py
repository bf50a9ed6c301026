"""Records: what follows from samples, there and back as JSON, and files that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flashir.bench.record import Machine, Record, Row, new_record, read_record
from flashir.errors import ArtefactError
from flashir.files.sealed_json import sealed
from flashir.machine.peak_memory import forget_peak, free_memory, peak_memory
from flashir.machine.profile import SCHEMA as PROFILE
from flashir.machine.profile import profile_key, profile_path
from flashir.machine.targets import target

MEASURED = Row(
    "flash",
    "onnx:cpu",
    2,
    512,
    chunk=64,
    cumsum="scan",
    predicted_ms=3.0,
    predicted_bytes=2**20,
    floor_ms=1.0,
    floor="arithmetic",
    samples_ms=(4.0, 2.0, 8.0, 4.0, 5.0),
    baseline_bytes=100,
    peak_bytes=150,
    heat=1,
)
FAILED = Row("plain", "torch:cpu", 1, 1024, failed="its process was ended by SIGKILL")


def record(*rows: Row) -> Record:
    machine = Machine(
        "a processor x2", 2, 2**34, "Linux", {"host": {"python": "3.11"}, "onnx": {"onnx": "1.21"}}, "abc"
    )
    return Record("2026-11-24T12:33:55+00:00", {"lengths": "512", "rounds": 5}, machine, rows)


def test_what_follows_from_samples() -> None:
    assert MEASURED.times and MEASURED.times.median == 4.0
    assert MEASURED.tokens_per_second == 2 * 512 / 4e-3
    assert MEASURED.fraction == 0.25
    assert MEASURED.memory == 50
    assert MEASURED.name == "flash 64 scan, onnx:cpu, 2 x 512" and FAILED.name == "plain, torch:cpu, 1 x 1024"
    assert (FAILED.times, FAILED.tokens_per_second, FAILED.fraction, FAILED.memory) == (None,) * 4


def test_there_and_back(tmp_path: Path) -> None:
    made = record(MEASURED, FAILED)
    path = tmp_path / f"{made.name}.json"
    made.write(path)
    tiled = replace(made, rows=(replace(MEASURED, chunk=None, tile=16),))
    tiled.write(tmp_path / "tiled.json")
    assert read_record(tmp_path / "tiled.json") == tiled
    assert path.name == "bench-20261124-123355.json"
    assert read_record(path) == made
    first, second = json.loads(path.read_text())["rows"]
    assert (
        first["median_ms"] == 4.0 and first["samples_ms"] == [4.0, 2.0, 8.0, 4.0, 5.0] and second["median_ms"] is None
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "'other', schema 1"),
        ({"schema": 2}, "schema 2"),
        ({"date": "yesterday"}, "yesterday"),
        ({"rows": [{"system": "flash"}]}, "target is missing"),
        ({"rows": [{"system": "f", "target": "t", "batch": 0, "seq_len": 1}]}, "wanted a whole number from 1 on"),
        (
            {"rows": [{"system": "f", "target": "t", "batch": 1, "seq_len": 1, "samples_ms": [-1]}]},
            "wanted a number above 0",
        ),
    ],
)
def test_files_that_are_no_record(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**record(MEASURED).as_dict(), **change}))
    with pytest.raises(ArtefactError) as raised:
        read_record(path)
    assert said in raised.value.message and str(path) in raised.value.message
    path.write_bytes(b"\xff{")
    with pytest.raises(ArtefactError):
        read_record(path)


def test_a_record_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "changed.json"
    record(MEASURED).write(path)
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said))  # laid out anew, it says the same
    assert read_record(path) == record(MEASURED)
    said["rows"][0]["samples_ms"][0] = 4.5
    path.write_text(json.dumps(said))
    with pytest.raises(ArtefactError, match=r"damaged, or was changed[\s\S]*remove its sha256"):
        read_record(path)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "docs" / "results").glob("*.json")), ids=str)
def test_records_of_earlier_versions_are_read(path: Path) -> None:
    assert read_record(path).rows


def test_a_new_record_says_what_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path))
    record, fitted = target("onnx:cpu"), {"peak.f32": 2e11, "bandwidth": 3e10}
    made = new_record({}, ("onnx:cpu",)).targets["onnx:cpu"]
    assert (made.record, made.bandwidth, made.memory) == ("shipped", record.bandwidth, record.memory)
    path = profile_path("onnx:cpu")
    path.parent.mkdir(parents=True)
    kept = {"schema": PROFILE, "date": "2026-11-24", "key": profile_key(record), "numbers": fitted}
    path.write_text(json.dumps(sealed(kept)))
    again = new_record({}, ("onnx:cpu",))
    made = again.targets["onnx:cpu"]
    assert (made.record, made.bandwidth) == ("calibrated on this machine, 2026-11-24", 3e10)
    assert made.peak["f32"] == 2e11
    again.write(tmp_path / "again.json")
    assert read_record(tmp_path / "again.json") == again


def test_a_new_record_says_where_it_is() -> None:
    made = new_record({"rounds": 3}, ("onnx:cpu",))
    assert made.machine.versions["onnx"]["onnxruntime"] and made.machine.versions["host"]["flashir"]
    assert made.machine.cores >= 1 and made.machine.memory_bytes > 2**28
    commit = made.machine.commit
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets")
def test_peaks_are_kept_and_forgotten() -> None:
    block = bytearray(64 << 20)
    before = peak_memory()
    del block
    forget_peak()
    after = peak_memory()
    assert before and after and before - after > 32 << 20
    assert free_memory() > 2**24
