"""Atomic writes of files and folders."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from flashir.errors import ArtefactError
from flashir.interrupts import undisturbed

UNFINISHED = ".unfinished"
"""The suffix of a temporary file. A file that keeps it was left behind by a killed process."""

PAGE = 4096  # bytes; a full disk may still have room for the names of files and folders

_HINTS = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EACCES: "choose a folder that you can write to",
    errno.EPERM: "choose a folder that you can write to",
    errno.EROFS: "choose a folder that you can write to",
    errno.EISDIR: "choose another name, or remove the folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another place",
}


def atomic_write(
    path: Path,
    write: Callable[[BinaryIO], object],
    check: Callable[[Path], object] | None = None,
    *,
    alone: bool = False,
) -> None:
    """Write a file atomically: `path` always holds either the old content or the new.

    Args:
        path: the file; missing parent folders are created.
        write: writes the content.
        check: called with the path of the finished temporary file; if it raises, `path` is unchanged.
        alone: commit the file by itself, even during the `check` of an enclosing write, which may still be interrupted.

    Raises:
        ArtefactError: the file cannot be written: the disk is full, there is no permission, `path` is a folder.
    """
    examine = None if check is None else lambda files: check(files[path.name])
    with _inside(None if alone else _committing.get()):
        atomic_files(path.parent, {path.name: write}, examine)


def atomic_files(
    folder: Path,
    files: Mapping[str, Callable[[BinaryIO], object]],
    check: Callable[[Mapping[str, Path]], object] | None = None,
) -> None:
    """Write files that belong together. All are complete and checked before the first is renamed.

    They are renamed in order. A kill in between leaves the others under their temporary names, which `unfinished`
    finds. So if the first file identifies the others, the next process can finish the work. Ctrl-C is handled before
    the first rename or after the last one, including the renames of an enclosing write whose `check` this is.

    Args:
        folder: the folder; created if missing.
        files: the writer of the content, by file name.
        check: called with the paths of the finished temporary files, by file name.

    Raises:
        ArtefactError: as for `atomic_write`; all files are unchanged.
    """
    temporary = {name: _unfinished(folder / name) for name in files}
    with ExitStack() as own, in_folder(folder):
        around = _committing.get() or own
        try:
            for name, write in files.items():
                with _inside(None), writing(folder / name), temporary[name].open("xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
            if check is not None:
                with _inside(around):
                    check(temporary)
            for name in files:
                check_file(folder / name)
            around.enter_context(undisturbed())
            for name, path in temporary.items():
                with writing(folder / name):
                    _put(path, folder / name)
        finally:
            for path in temporary.values():
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        with writing(folder):
            _sync_folder(folder)


_committing: ContextVar[ExitStack | None] = ContextVar("committing", default=None)
"""The exit stack of an enclosing `atomic_files`, whose `check` is running."""


@contextmanager
def _inside(committing: ExitStack | None) -> Iterator[None]:
    before = _committing.set(committing)
    try:
        yield
    finally:
        _committing.reset(before)


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Create a folder to write into. After an exception inside, remove the folders that were created, if empty.

    Raises ArtefactError if it cannot be created.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


def check_file(path: Path) -> None:
    """Raise ArtefactError if a folder has the name of a file to write."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def check_room(folder: Path) -> None:
    """Create a folder. Raise ArtefactError, without the folder, if a small file cannot be written into it."""
    with in_folder(folder), writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(PAGE))


def unfinished(path: Path) -> Iterator[Path]:
    """The temporary files of a file that killed processes have left behind."""
    return path.parent.glob(f".{path.name}.*{UNFINISHED}")


def atomic_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Create a folder atomically: it gets its name after all its content is on disk.

    Args:
        path: the folder; may exist if it is empty.
        fill: called with a temporary folder to write the content into.

    Raises:
        ArtefactError: a file cannot be written, or `path` exists and is not empty.
    """
    unfinished = _unfinished(path)
    with in_folder(path.parent):
        try:
            with writing(path):
                unfinished.mkdir()
            fill(unfinished)
            with writing(path):
                for folder in (*(inner for inner in unfinished.rglob("*") if inner.is_dir()), unfinished):
                    _sync_folder(folder)
                unfinished.rename(path)
                _sync_folder(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder with its content. It is renamed first; if interrupted, `sweep` removes the rest."""
    with writing(path):
        unfinished = path.rename(_unfinished(path))
        shutil.rmtree(unfinished)


def inodes(folder: Path) -> dict[str, int]:
    """The inode of each file in a folder, to detect rewritten files. Empty if it is not a folder."""
    with suppress(OSError):
        return {entry.name: entry.inode() for entry in os.scandir(folder) if not entry.name.endswith(UNFINISHED)}
    return {}


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes. No other process may be writing to the folder."""
    for leftover in folder.glob(f".*{UNFINISHED}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into an ArtefactError that says what could not be written, and why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtefactError(
            f"cannot write: {reason}", where=str(path), hint=_HINTS.get(error.errno or 0, "")
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError into an ArtefactError that says what could not be read, and why."""
    try:
        yield
    except OSError as error:
        raise ArtefactError(f"cannot read: {error.strerror or error}", where=str(path)) from error


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock on a folder, so that writers of several files take turns. A kill releases it.

    Does nothing on Windows. Raises ArtefactError if the folder cannot be opened, or without `wait` if another process
    holds the lock.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with writing(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            with writing(folder):
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except ArtefactError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise ArtefactError("another process is writing here", where=str(folder)) from None
            raise
        yield
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal. Raises ArtefactError if it cannot be read."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect_digest(expected: str, actual: str, path: Path) -> None:
    """Raise ArtefactError if the digest of an artefact is not the expected one."""
    if actual != expected:
        raise ArtefactError(
            f"the file is damaged, or was changed: its sha256 is {actual}, wanted {expected}",
            where=str(path),
            hint="export the model again",
        )


def _unfinished(path: Path) -> Path:
    """A temporary path in the same folder; for a device, in the folder for temporary files."""
    folder = Path(tempfile.gettempdir()) if _is_device(path) else path.parent
    return folder / f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}"


def _put(written: Path, path: Path) -> None:
    """Rename a finished file to `path`. If that is a device, copy the content to it."""
    if not _is_device(path):
        written.replace(path)
        return
    with written.open("rb") as content, path.open("wb") as device:
        shutil.copyfileobj(content, device)


def _is_device(path: Path) -> bool:
    """Whether a path is a device, a pipe, or an open file of a process such as /dev/stdout."""
    parent = os.path.realpath(path.parent)
    opened = parent == "/dev" or parent.startswith("/proc/")
    return path.exists() and (opened or not (path.is_file() or path.is_dir()))


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk. Windows cannot open folders and does not need it."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
