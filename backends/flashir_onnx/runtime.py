"""ONNX Runtime, imported when something runs."""

from __future__ import annotations

import os
from types import ModuleType


def onnxruntime() -> ModuleType:
    """The module. It sends no telemetry, for where a home cannot be written, as in a container, it warns of that.

    What the environment says of ORT_DISABLE_TELEMETRY counts more.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as found

    return found  # type: ignore[no-any-return]
