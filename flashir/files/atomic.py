"""Files that are written whole or not at all."""

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
"""How the name of a file ends while it is written; one that stays was left by a writer that got killed."""

_MEND = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
    errno.EROFS: "choose a place that you may write to",
    errno.EISDIR: "choose another name, or remove the folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another place",
}


def atomic_write(
    path: Path, write: Callable[[BinaryIO], object], check: Callable[[Path], object] | None = None
) -> None:
    """Write a file whole or not at all: whatever happens, `path` holds the old content or the new.

    Args:
        path: where the file goes; folders above it that are missing are made.
        write: writes the content.
        check: looks at the finished file under the temporary name that it is given, in the folder of `path`;
            where it raises, `path` stays as it was.

    Raises:
        ArtefactError: the file cannot be written: a full disk, no permission, `path` is a folder.
    """
    examine = None if check is None else lambda files: check(files[path.name])
    atomic_files(path.parent, {path.name: write}, examine)


def atomic_files(
    folder: Path,
    files: Mapping[str, Callable[[BinaryIO], object]],
    check: Callable[[Mapping[str, Path]], object] | None = None,
) -> None:
    """Write files that belong together. Each is whole and checked before the first of them gets its name.

    They get their names in order. A kill in between leaves the others under their temporary names, `unfinished` has
    them; so where the first says what belongs to it, the rest can be done by whoever comes next. Ctrl-C is heard before
    the first has its name or when all have theirs, and those whose `check` this is as well.

    Args:
        folder: where they go; made where it is missing.
        files: by name, what writes the content.
        check: looks at the finished files, by name, where they are until then.

    Raises:
        ArtefactError: as `atomic_write`; none of the files has changed.
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
                with writing(folder / name):
                    if (folder / name).is_dir():
                        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
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
"""Lasts until files have their names that are written around those which a check writes."""


@contextmanager
def _inside(committing: ExitStack | None) -> Iterator[None]:
    before = _committing.set(committing)
    try:
        yield
    finally:
        _committing.reset(before)


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Have a folder to write into. Where what is inside raises, folders that were made for it go again, if empty.

    Raises ArtefactError where it cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def unfinished(path: Path) -> Iterator[Path]:
    """What writers of a file that got killed have left of it."""
    return path.parent.glob(f".{path.name}.*{UNFINISHED}")


def atomic_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Make a folder whole or not at all: it appears under its name when all that is in it is on disk.

    Args:
        path: where the folder goes; it must not be there yet, or be empty.
        fill: writes what belongs into the folder that it is given, which has another name until then.

    Raises:
        ArtefactError: a file cannot be written, or there is something already.
    """
    unfinished = _unfinished(path)
    with in_folder(path.parent):
        try:
            with writing(path):
                unfinished.mkdir()
            fill(unfinished)
            with writing(path):
                for folder in (*(each for each in unfinished.rglob("*") if each.is_dir()), unfinished):
                    _sync_folder(folder)
                unfinished.rename(path)
                _sync_folder(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it; cut short, it leaves what `sweep` removes, and nothing under the old name."""
    with writing(path):
        unfinished = path.rename(_unfinished(path))
        shutil.rmtree(unfinished)


def inodes(folder: Path) -> dict[str, int]:
    """What a folder holds by name: whatever was written there since has another number. Nothing where it is none."""
    with suppress(OSError):
        return {each.name: each.inode() for each in os.scandir(folder) if not each.name.endswith(UNFINISHED)}
    return {}


def sweep(folder: Path) -> None:
    """Remove what writers left unfinished in a folder when they were killed. Nobody else may be writing there."""
    for left in folder.glob(f".*{UNFINISHED}"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the errors of the file system into an ArtefactError that says what could not be written, and why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtefactError(f"cannot write: {reason}", where=str(path), hint=_MEND.get(error.errno or 0, "")) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the errors of the file system into an ArtefactError that says what could not be read, and why."""
    try:
        yield
    except OSError as error:
        raise ArtefactError(f"cannot read: {error.strerror or error}", where=str(path)) from error


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder, so that writers of several files that belong together take turns; a kill lets go of it.

    Systems without advisory locks (Windows) do without. Raises ArtefactError where the folder cannot be opened, or
    where another holds it and this one does not `wait`.
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
                raise ArtefactError("another process is at work here", where=str(folder)) from None
            raise
        yield
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal. Raises ArtefactError where it cannot be read."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unfinished(path: Path) -> Path:
    """A name to write under until all is well, beside the path; that of a device is nowhere near it."""
    folder = Path(tempfile.gettempdir()) if _is_device(path) else path.parent
    return folder / f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}"


def _put(written: Path, path: Path) -> None:
    """Give a file its name; a device gets its content, and stays what it is."""
    if not _is_device(path):
        written.replace(path)
        return
    with written.open("rb") as content, path.open("wb") as device:
        shutil.copyfileobj(content, device)


def _is_device(path: Path) -> bool:
    """Whether a path is that of a device, a pipe, or a file that a process has open, such as /dev/stdout."""
    parent = os.path.realpath(path.parent)
    opened = parent == "/dev" or parent.startswith("/proc/")
    return path.exists() and (opened or not (path.is_file() or path.is_dir()))


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; systems that cannot open a folder do so by themselves."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
