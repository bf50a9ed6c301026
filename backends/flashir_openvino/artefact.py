"""The artefact on disk: `model.xml` and `model.bin`, the files that OpenVINO itself reads and writes.

The metadata are in the runtime information of the model, under `flashir`. A comment at the end of model.xml holds a
digest of it and of model.bin, so that damage is found before OpenVINO reads either.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from flashir.backends.protocols import Written
from flashir.errors import ArtefactError
from flashir.files.atomic import atomic_files, in_folder, locked, sha256
from flashir.files.foreign import parse_json, read_bytes
from flashir_openvino.runtime import DATA_FILE, MODEL_FILE, core, reason, serialised

if TYPE_CHECKING:
    from openvino import Model

KEY = "flashir"
LARGEST = 2**28
"""Most bytes of a model.xml."""

SCALES, INT8 = "/scales", "/int8"
"""What follows the name of a quantised weight in the names of its constants."""

_SEAL = re.compile(rb"\n<!-- flashir\.sha256=([0-9a-f]{64}) -->\n\Z")


def write(model: Model, metadata: Mapping[str, str], out: Path, check: Callable[[Path], tuple[str, ...]]) -> Written:
    """Write and check an artefact, and then commit it.

    Args:
        model: the model.
        metadata: the metadata of the artefact.
        out: the folder; created if missing.
        check: called with a temporary model.xml; returns a line for each check that it passed.

    Raises:
        ArtefactError: the files cannot be written; also the errors of `check`.
    """
    model.set_rt_info(json.dumps(dict(metadata)), KEY)
    with in_folder(out), locked(out), TemporaryDirectory() as folder:
        xml, data = serialised(model, Path(folder))
        content = xml.read_bytes()
        xml.write_bytes(content + f"\n<!-- flashir.sha256={_digest(content, data)} -->\n".encode())
        checks = check(xml)
        atomic_files(out, {DATA_FILE: _copy(data), MODEL_FILE: _copy(xml)})
    return Written(out / MODEL_FILE, checks, (out / DATA_FILE,))


def read(path: Path) -> tuple[Model, dict[str, str]]:
    """The model of a model.xml, and its metadata. Raises ArtefactError if a file is missing or damaged."""
    content = read_bytes(path, ArtefactError, largest=LARGEST)
    seal = _SEAL.search(content)
    if seal is None:
        raise ArtefactError(
            "this model.xml was not written by flashir, or not all of it", where=str(path), hint="export it again"
        )
    data = path.with_suffix(".bin")
    if not data.is_file():
        raise ArtefactError(f"its weights {data.name} are missing", where=str(path), hint="move both files together")
    got, wanted = _digest(content[: seal.start()], data), seal[1].decode()
    if got != wanted:
        raise ArtefactError(
            f"it or {data.name} is damaged, or was changed: the sha256 is {got}, wanted {wanted}",
            where=str(path),
            hint="export the model again",
        )
    try:
        model = core().read_model(str(path), str(data))
        text: Any = model.get_rt_info(KEY).astype(str)
    except RuntimeError as error:
        raise ArtefactError(f"OpenVINO does not read it: {reason(error)}", where=str(path)) from error
    return model, parse_json(text, path, ArtefactError, dict[str, str], problem="its metadata are damaged", hint="")


def constants(model: Model) -> tuple[dict[str, Any], dict[str, int]]:
    """The constants of a model by name, and the axis of the scales of each that is quantised with a scale a column."""
    arrays, axes = {}, {}
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            name = node.get_friendly_name()
            arrays[name] = node.data
            if name.endswith(SCALES):
                (reader,) = node.output(0).get_target_inputs()  # a Reshape to [1, n] or [n, 1]
                shape = tuple(reader.get_node().get_output_shape(0))
                axes[name.removesuffix(SCALES) + INT8] = shape.index(max(shape))
    return arrays, axes


def _digest(content: bytes, data: Path) -> str:
    return hashlib.sha256(content + sha256(data).encode()).hexdigest()


def _copy(source: Path) -> Callable[[BinaryIO], object]:
    def write_to(file: BinaryIO) -> None:
        with source.open("rb") as content:
            shutil.copyfileobj(content, file)

    return write_to
