"""The artefact on disk: `model.jax`, and beside it the function and the parameters, which it names by digest.

    model.jax                       the model as text, the choices made, platforms, the digests of all files
    model-<digest>.stablehlo        the function of (stacked parameters, *inputs), as jax.export writes it; one for all
                                    platforms, or one for each where they differ
    model-<digest>.safetensors      the parameters by full name, float32

No file beside it has a name that other content has, so writing them harms no artefact that is there; renaming model.jax
into place commits all of them.
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

from flashir.errors import ArtefactError
from flashir.files.atomic import UNFINISHED, atomic_write, in_folder, locked, sha256
from flashir.files.foreign import parse_json, read_bytes
from flashir.ir import DType
from flashir_jax.layout import Stack

MAIN_FILE = "model.jax"
FUNCTION, PARAMETERS = "stablehlo", "safetensors"
MODEL = "flashir.model"
SCHEMA = 1
_NO_DIGEST = ""
_NAME = r"model-[0-9a-f]{12}\.(stablehlo|safetensors)"
_OURS = re.compile(rf"{_NAME}|\.model(\.jax|-[0-9a-f]{{12}}\.\w+)\.[0-9a-f]+{re.escape(UNFINISHED)}")

Content = Callable[[BinaryIO], object]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one parameter of the function is stacked: see `Stack`."""

    shape: tuple[Annotated[int, Meta(ge=0, le=2**53)], ...]
    dtype: str
    rounds: tuple[tuple[str, Annotated[int, Meta(ge=0, le=2**40)]], ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `model.jax` says.

    Args:
        schema: of this record.
        metadata: the IR text of the model, the choices made, versions.
        notes: what is particular about it, for people.
        functions: the digest of the function for each platform.
        parameters: the digest of the parameters.
        layouts: what the function takes first, by the name it has there.
        sha256: of this record with the digest left empty.
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
        return {n: Stack(n, each.shape, DType.named(each.dtype), each.rounds) for n, each in self.layouts.items()}

    def files(self) -> dict[str, str]:
        """The names of the files beside the main one, and their digests."""
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
    notes: tuple[str, ...] = (),
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Write an artefact whole or not at all. Returns the path of its `model.jax`.

    Args:
        out: the folder; made where it is missing.
        functions: for each platform, as `exported` made it.
        params: by full name.
        stacks: how the functions take them.
        metadata, notes: see Manifest.
        check: is given the main file under a temporary name, in its place but for that; what it raises prevents all.

    Raises:
        ArtefactError: the files cannot be written; and what `check` raises.
    """
    path = out / MAIN_FILE
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
            atomic_write(path, lambda file: file.write(content), check=check)
        finally:
            _sweep(out)
    return path


def read_manifest(path: Path) -> Manifest:
    """The main file of an artefact, its digest and those of the files beside it verified.

    Raises:
        ArtefactError: a file is missing, cannot be read, is no artefact of flashir, or is damaged.
    """
    manifest = _manifest(path)
    _expect(manifest.sha256, manifest.digest(), path)
    if manifest.schema != SCHEMA:
        raise ArtefactError(
            f"it is of schema {manifest.schema}, wanted {SCHEMA}", where=str(path), hint="export the model again"
        )
    for name, digest in manifest.files().items():
        beside = path.with_name(name)
        if not beside.is_file():
            raise ArtefactError(f"its file {name} is missing", where=str(path), hint="move all of them together")
        _expect(digest, sha256(beside), beside)
    return manifest


def file_name(kind: str, digest: str) -> str:
    """The name of a file beside the main one."""
    return f"model-{digest[:12]}.{kind}"


def _put(out: Path, kind: str, content: bytes) -> str:
    """Write a file under the name of its digest, and return that."""
    digest = hashlib.sha256(content).hexdigest()
    atomic_write(out / file_name(kind, digest), lambda file: file.write(content))
    return digest


def _expect(wanted: str, got: str, path: Path) -> None:
    if got != wanted:
        raise ArtefactError(
            f"the file is damaged, or was changed: its sha256 is {got}, wanted {wanted}",
            where=str(path),
            hint="export the model again",
        )


def _sweep(out: Path) -> None:
    """Remove what earlier exports into this folder left: files that model.jax does not name, unfinished ones."""
    with suppress(OSError, ArtefactError):  # a manifest that cannot be read may name any of them
        named = set(_named(out / MAIN_FILE))
        for file in out.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in named:
                file.unlink(missing_ok=True)


def _named(path: Path) -> Iterator[str]:
    if path.exists():
        yield from _manifest(path).files()


def _manifest(path: Path) -> Manifest:
    """What a main file says, nothing of it verified. Raises ArtefactError."""
    content = read_bytes(path, ArtefactError)
    problem, hint = "this is no artefact of flashir for JAX", "export the model again"
    return parse_json(content, path, ArtefactError, Manifest, problem=problem, hint=hint)
