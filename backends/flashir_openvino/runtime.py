"""OpenVINO itself, imported on first use: its version, its devices and its core."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashir.errors import ArtefactError, TargetError

if TYPE_CHECKING:
    from openvino import Core, Model

OLDEST = (2026, 4)
"""The oldest version that keeps in float32 what is marked so. Earlier ones narrow it."""

MODEL_FILE, DATA_FILE = "model.xml", "model.bin"
TELEMETRY = "openvino_telemetry"
INSTALL = "pip install 'flashir[openvino]'"


def installed() -> str:
    """The version of OpenVINO. Raises TargetError if it is missing or too old."""
    try:
        number = version("openvino")
    except PackageNotFoundError:
        raise TargetError("OpenVINO is not installed", where="openvino", hint=INSTALL) from None
    if tuple(int(part) for part in number.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise TargetError(
            f"OpenVINO is too old: wanted {wanted} or later, got {number}", where="openvino", hint=f"{INSTALL} -U"
        )
    return number


@cache
def core() -> Core:
    """The core of OpenVINO, which reads and compiles models. Raises the errors of `installed`.

    OpenVINO sends statistics of use, unless it finds no package for that. flashir sends nothing anywhere.
    """
    installed()
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # to import it raises an ImportError
    from openvino import Core

    return Core()


def reason(error: RuntimeError) -> str:
    """What OpenVINO says last, without the places in its source that come before."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def serialised(model: Model, folder: Path) -> tuple[Path, Path]:
    """Write a model into a folder: its `model.xml` and `model.bin`. Raises ArtefactError if the disk is full."""
    from openvino import serialize

    xml, data = folder / MODEL_FILE, folder / DATA_FILE
    try:
        serialize(model, xml, data)
    except RuntimeError as error:
        raise ArtefactError(
            f"OpenVINO cannot write the model: {reason(error)}",
            where=str(folder),
            hint="free some space there, or set TMPDIR to a folder with space",
        ) from error
    return xml, data


def device_names() -> tuple[str, ...]:
    """The devices of this machine, such as `cpu`; of several of a kind, the first."""
    return tuple(dict.fromkeys(name.partition(".")[0].lower() for name in core().available_devices))


def computes_in(device: str) -> frozenset[str]:
    """What a device computes in natively, such as FP32 and BF16."""
    capabilities: Any = core().get_property(device.upper(), "OPTIMIZATION_CAPABILITIES")
    return frozenset(capabilities)
