"""Every verb that writes, on a disk that is full: one message, exit code 2, the old content whole and nothing new."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flashir.cli.web_page import runtime
from flashir.train.data import Tokenizer
from tests.bench.test_record import MEASURED, record
from tests.cli.verbs import MODEL, ROWS, Lines, Ran, Streams

if sys.platform == "win32":
    pytest.skip("no such limits", allow_module_level=True)
import resource

Line = Callable[[Lines, Path], list[object]]
EXPORT = ("export", *MODEL, "--force")
WRITERS: dict[str, Line] = {
    "new": lambda at, out: ["new", *MODEL, "--force", "-o", out / "model.fir"],
    "init": lambda at, out: ["new", *MODEL, "--init", out / "checkpoint"],
    "show --html": lambda at, out: ["show", *MODEL, "--force", "--html", out / "page.html"],
    "run": lambda at, out: ["run", at.folder / "out", "--text", at.folder / "text.txt", "-o", out / "logits.npy"],
    "onnx": lambda at, out: [*EXPORT, "-o", out / "onnx"],
    "decode": lambda at, out: [*EXPORT, "--decode", "-o", out / "decode"],
    "tune --export": lambda at, out: ["tune", "--export", out / "trials.json"],
}
SLOW: dict[str, Line] = {
    "torch": lambda at, out: [*EXPORT, "--target", "torch:cpu", "-o", out / "torch"],
    "jax": lambda at, out: [*EXPORT, "--target", "jax:cpu", "-o", out / "jax"],
    "openvino": lambda at, out: [*EXPORT, "--target", "openvino:cpu", "-o", out / "openvino"],
    "quantize": lambda at, out: [*EXPORT, "--quantize", "int8", "-o", out / "narrow"],
    "web": lambda at, out: [*EXPORT, "--web", "--web-runtime", at.folder / "dist", "-o", out / "web"],
    "tokenizer": lambda at, out: [*EXPORT, "--tokenizer", at.folder / "tokenizer.json", "-o", out / "worded"],
    "train": lambda at, out: [
        "train",
        *MODEL,
        "--data",
        at.folder / "text.txt",
        "--steps",
        2,
        *ROWS,
        "-o",
        out / "run",
    ],
    "bench": lambda at, out: ["bench", *MODEL[:-4], "--chunks", 8, "--lengths", 16, "--rounds", 1, "-o", out / "bench"],
    "bench --show": lambda at, out: ["bench", "--show", at.folder / "bench.json", "-o", out / "again"],
}
KEEPING = {name: SLOW[name] for name in ("train", "bench")}
"""Verbs that keep what they have so far: the checkpoints of a run, the samples of a benchmark."""

WHOLE = [name for name in (*WRITERS, *SLOW) if name not in KEEPING]
"""Verbs that leave nothing if they cannot write all."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHIR_CACHE", str(folder / "cache"))
        made = Lines(folder)
        made.prepare()
        (folder / "dist").mkdir()
        for name in runtime.FILES:
            (folder / "dist" / name).write_bytes(bytes(100_000))
        Tokenizer.bytes().save(folder / "tokenizer.json")
        record(MEASURED).write(folder / "bench.json")
        yield made


@contextmanager
def largest(size: int) -> Iterator[None]:
    """No file may become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def written(lines: Lines, name: str, out: Path) -> Ran:
    line = {**WRITERS, **SLOW, **KEEPING}[name](lines, out)
    return Streams(env={"FLASHIR_CACHE": str(lines.folder / "cache")}).run([str(word) for word in line])


def told(ran: Ran) -> bool:
    """Whether a run was refused, and if so in one message."""
    assert "Traceback" not in ran.err and "this is a bug" not in ran.err, ran.err
    assert (ran.code, ran.err.count("error:")) in ((0, 0), (2, 1)), (ran.code, ran.err)
    return bool(ran.code)


@pytest.mark.parametrize(
    ("name", "old"),
    [
        pytest.param(name, old, marks=() if name in WRITERS and place % 2 == old else pytest.mark.slow)
        for place, name in enumerate(WHOLE)
        for old in (False, True)
    ],
)
def test_a_file_that_cannot_grow(lines: Lines, name: str, old: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if old and name != "init":
        assert not told(written(lines, name, out))
    before = snapshot(tmp_path)
    sizes = [len(content) for content in before.values() if content] or [5_000]
    for size in sorted({0, min(sizes) - 1, max(sizes) - 1}):
        with largest(size):
            refused = told(written(lines, name, out))
        if not refused:
            break
        assert snapshot(tmp_path) == before, size
    else:
        size = 0
    assert size > 0 or refused


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path_factory.mktemp("disk")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("cannot mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def levels(disk: Path) -> Iterator[int]:
    """Leave so many pages of a disk free, from none to more and more."""
    filler = disk / "filler"
    for pages in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233):
        room = os.statvfs(disk)
        filler.write_bytes(bytes(max(0, (room.f_bavail - pages) * room.f_bsize)))
        try:
            yield pages
        finally:
            filler.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("old", [False, True])
def test_a_disk_that_is_full(lines: Lines, name: str, old: bool, disk: Path) -> None:
    shutil.rmtree(out := disk / "out", ignore_errors=True)
    if old and name != "init":
        assert not told(written(lines, name, out))
    before = snapshot(disk)
    refused = 0
    for pages in levels(disk):
        if not told(written(lines, name, out)):
            break
        refused += 1
        assert {**snapshot(disk), "filler": None} == {**before, "filler": None}, pages
    assert refused


@pytest.mark.slow
@pytest.mark.parametrize("name", KEEPING)
def test_what_was_done_before_the_disk_was_full_is_kept_whole(lines: Lines, name: str, disk: Path) -> None:
    shutil.rmtree(out := disk / "out", ignore_errors=True)
    refused = 0
    for _ in levels(disk):
        ran = written(lines, name, out)
        told(ran)
        refused += ran.code == 2
        assert not list(disk.rglob("*.unfinished"))
        for file in disk.rglob("bench-*.json"):
            assert file.read_bytes().endswith(b"}\n")
        if name == "train" and (out / "run").exists():
            shutil.copytree(out / "run", copy := lines.folder / f"run{refused}")
            assert Streams().run(["train", "--resume", str(copy)]).code == 0
        shutil.rmtree(out, ignore_errors=True)
    assert refused


@pytest.mark.slow
def test_what_the_cache_has_no_room_for_is_done_without(lines: Lines, disk: Path) -> None:
    shutil.rmtree(disk / "out", ignore_errors=True)
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_bsize))
    streams = Streams(env={"FLASHIR_CACHE": str(disk / "cache")})
    for verb, code in (("plan", 0), ("tune", 0), ("eval", 0), ("train", 0), ("calibrate", 2), ("doctor", 1)):
        ran = streams.run(lines.line(verb))
        assert ran.code == code, ran.err
        assert "Traceback" not in ran.err and "this is a bug" not in ran.err
        assert verb == "plan" or "FLASHIR_CACHE" in ran.err + ran.out
        assert {path.name for path in disk.iterdir()} == {"filler"}
    (disk / "filler").unlink()


def test_a_device_stays_what_it_is(lines: Lines, tmp_path: Path) -> None:
    """What is written to /dev/null is not put in its place, nor is what is written to a pipe."""
    run = [
        str(word) for word in ("run", lines.folder / "out", "--text", lines.folder / "text.txt", "--length", 4, "-o")
    ]
    null = tmp_path / "null"
    os.mkfifo(null)
    reader = os.open(null, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for place in (null, Path("/dev/null")):
            mode = place.stat().st_mode
            assert Streams().run([*run, str(place)]).code == 0
            assert place.stat().st_mode == mode
        assert os.read(reader, 6) == b"\x93NUMPY"
    finally:
        os.close(reader)
    ran = Streams().run([*run, "/dev/full"])
    assert ran.code == 2 and "/dev/full: cannot write: No space left on device" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["null"]
