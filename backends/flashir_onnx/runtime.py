"""Import ONNX Runtime on first use."""

from __future__ import annotations

import os
from types import ModuleType


def onnxruntime() -> ModuleType:
    """The module, with telemetry disabled: it prints warnings if the home folder is read-only, as in a container.

    A value of ORT_DISABLE_TELEMETRY in the environment takes precedence.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as module

    return module  # type: ignore[no-any-return]
