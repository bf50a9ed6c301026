"""The artefact on disk: `model.jax`, and the files of the function and the parameters, which it names by digest.

    model.jax                       the model as text, its plan, platforms, the digests of all files
    model-<digest>.stablehlo        the function of (stacked parameters, *inputs) from jax.export; one for all
                                    platforms, or one for each if they differ
    model-<digest>.safetensors      the parameters by full name, float32

The names of the further files contain their digests, so writing them does not affect an existing artefact. Renaming
model.jax commits all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta
from safetensors.numpy import save

from flashir.backends.protocols import Written
from flashir.errors import ArtefactError
from flashir.files.atomic import UNFINISHED, atomic_write, expect_digest, in_folder, locked, sha256
from flashir.files.foreign import parse_json, read_bytes
from flashir.ir import DType
from flashir_jax.layout import Stack

MAIN_FILE = "model.jax"
FUNCTION, PARAMETERS = "stablehlo", "safetensors"
SCHEMA = 1
_NO_DIGEST = ""
_NAME = r"model-[0-9a-f]{12}\.(stablehlo|safetensors)"
_OURS = re.compile(rf"{_NAME}|\.model(\.jax|-[0-9a-f]{{12}}\.\w+)\.[0-9a-f]+{re.escape(UNFINISHED)}")

Content = Callable[[BinaryIO], object]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stacking of one parameter of the function: see `Stack`."""

    shape: tuple[Annotated[int, Meta(ge=0, le=2**53)], ...]
    dtype: str
    rounds: tuple[tuple[str, Annotated[int, Meta(ge=0, le=2**40)]], ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `model.jax`.

    Args:
        schema: the schema version.
        metadata: the IR text of the model, its plan, versions.
        notes: notes for the user.
        functions: the digest of the function for each platform.
        parameters: the digest of the parameters.
        layouts: the stacked parameters that the function takes, by name.
        sha256: the digest of this record with an empty digest.
    """

    schema: int
    metadata: dict[str, str]
    notes: tuple[str, ...]
    functions: Annotated[dict[str, Digest], Meta(min_length=1)]
    parameters: Digest
    layouts: dict[str, Layout]
    sha256: str = _NO_DIGEST

    def stacks(self) -> dict[str, Stack]:
        """The parameters of the function."""
        return {n: Stack(n, own.shape, DType.named(own.dtype), own.rounds) for n, own in self.layouts.items()}

    def files(self) -> dict[str, str]:
        """The digests of the further files by name."""
        kinds = [(FUNCTION, digest) for digest in self.functions.values()] + [(PARAMETERS, self.parameters)]
        return {file_name(kind, digest): digest for kind, digest in kinds}

    def digest(self) -> str:
        """The digest of the record, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, sha256=_NO_DIGEST))).hexdigest()


def write(
    out: Path,
    functions: Mapping[str, bytes],
    params: Mapping[str, npt.NDArray[Any]],
    stacks: Mapping[str, Stack],
    metadata: Mapping[str, str],
    notes: tuple[str, ...],
    check: Callable[[Path], tuple[str, ...]],
) -> Written:
    """Write an artefact atomically.

    Args:
        out: the folder; created if missing.
        functions: the result of `exported` for each platform.
        params: parameters by full name.
        stacks: the stacked parameters of the functions.
        metadata, notes: see Manifest.
        check: called with the temporary main file in the same folder; returns a line for each check that it passed. An
            exception prevents the commit.

    Raises:
        ArtefactError: the files cannot be written; also the errors of `check`.
    """
    path, checks = out / MAIN_FILE, list[str]()
    with in_folder(out), locked(out):
        try:
            weights = save({name: np.asarray(array, order="C") for name, array in params.items()})
            manifest = Manifest(
                SCHEMA,
                dict(metadata),
                notes,
                functions={platform: _put(out, FUNCTION, content) for platform, content in functions.items()},
                parameters=_put(out, PARAMETERS, weights),
                layouts={name: Layout(stack.shape, str(stack.dtype), stack.rounds) for name, stack in stacks.items()},
            )
            manifest = msgspec.structs.replace(manifest, sha256=manifest.digest())
            content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
            atomic_write(path, lambda file: file.write(content), check=lambda file: checks.extend(check(file)))
        finally:
            _sweep(out)
    return Written(path, tuple(checks), tuple(out / name for name in manifest.files()))


def files(path: Path) -> tuple[Path, ...]:
    """A main file and what it names, without verification. Raises ArtefactError."""
    return (path, *map(path.with_name, _manifest(path).files()))


def read_manifest(path: Path) -> Manifest:
    """Read the main file of an artefact, and verify every digest.

    Raises:
        ArtefactError: a file is missing, cannot be read, was not written by flashir, or is damaged.
    """
    manifest = _manifest(path)
    expect_digest(manifest.sha256, manifest.digest(), path)
    if manifest.schema != SCHEMA:
        raise ArtefactError(
            f"it has schema {manifest.schema}, wanted {SCHEMA}", where=str(path), hint="export the model again"
        )
    for name, digest in manifest.files().items():
        beside = path.with_name(name)
        if not beside.is_file():
            raise ArtefactError(f"its file {name} is missing", where=str(path), hint="move all of them together")
        expect_digest(digest, sha256(beside), beside)
    return manifest


def file_name(kind: str, digest: str) -> str:
    """The name of a further file."""
    return f"model-{digest[:12]}.{kind}"


def _put(out: Path, kind: str, content: bytes) -> str:
    """Write a file that is named by its digest. Returns the digest."""
    digest = hashlib.sha256(content).hexdigest()
    atomic_write(out / file_name(kind, digest), lambda file: file.write(content), alone=True)
    return digest


def _sweep(out: Path) -> None:
    """Remove leftovers of earlier exports: files that model.jax does not name, and temporary files."""
    with suppress(OSError, ArtefactError):  # an unreadable manifest may name any of them
        named = set(_named(out / MAIN_FILE))
        for file in out.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in named:
                file.unlink(missing_ok=True)


def _named(path: Path) -> Iterator[str]:
    if path.exists():
        yield from _manifest(path).files()


def _manifest(path: Path) -> Manifest:
    """Read a main file without verification. Raises ArtefactError."""
    content = read_bytes(path, ArtefactError)
    problem, hint = "this is no artefact of flashir for JAX", "export the model again"
    return parse_json(content, path, ArtefactError, Manifest, problem=problem, hint=hint)
