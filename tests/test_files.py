"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from flashir.errors import ArtefactError
from flashir.files.atomic import atomic_folder, atomic_write, locked, remove_folder, sha256, sweep


def test_writes_whole_files_and_the_folders_above(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"old", b"new and longer", b""):
        atomic_write(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
        assert path.read_bytes() == content
        assert sha256(path) == hashlib.sha256(content).hexdigest()
    assert list(path.parent.iterdir()) == [path]


def test_the_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    atomic_write(tmp_path / "atomic", lambda file: None)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, ArtefactError])
def test_what_the_writer_raises_passes_through_and_the_old_file_stays(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error("no")

    with pytest.raises(error, match="no"):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_check_sees_the_whole_file_before_it_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def check(unfinished: Path) -> None:
        seen.append((unfinished.parent, unfinished.read_bytes(), path.read_bytes()))
        raise ArtefactError("not good enough")

    with pytest.raises(ArtefactError, match="not good enough"):
        atomic_write(path, lambda file: file.write(b"new"), check)
    assert seen == [(tmp_path, b"new", b"old")]
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_errors_say_what_where_and_how_to_mend(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ArtefactError, match=r"folder: cannot write: Is a directory\n.*another name"):
        atomic_write(folder, lambda file: file.write(b"new"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtefactError, match="cannot write"):
        atomic_write(tmp_path / "file" / "below", lambda file: None)
    with pytest.raises(ArtefactError, match="missing: cannot read: No such file"):
        sha256(tmp_path / "missing")
    with pytest.raises(ArtefactError, match="cannot write"), locked(tmp_path / "missing"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no advisory locks")
def test_writers_of_one_folder_take_turns(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path):
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no advisory locks")
def test_who_does_not_wait_for_a_folder_is_told(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ArtefactError, match="another process"), locked(tmp_path, wait=False):
        pass
    with locked(tmp_path, wait=False):
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made"

    def fill(folder: Path) -> None:
        assert not path.exists()
        (folder / "a").write_bytes(b"a")
        (folder / "below").mkdir()

    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        atomic_folder(path, fail)
    assert list(tmp_path.iterdir()) == []
    atomic_folder(path, fill)
    assert {each.name for each in path.iterdir()} == {"a", "below"}
    with pytest.raises(ArtefactError, match="not empty"):
        atomic_folder(path, lambda folder: None)
    assert list(tmp_path.iterdir()) == [path]
    remove_folder(path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".a.1234.unfinished").mkdir()
    (tmp_path / ".a.1234.unfinished" / "file").write_bytes(b"")
    (tmp_path / ".b.1234.unfinished").write_bytes(b"")
    (tmp_path / "c").write_bytes(b"")
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "c"]
