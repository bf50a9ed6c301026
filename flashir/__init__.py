"""flashir: a small compiler for the FLASH family of linear-time transformers.

    import flashir

    model = flashir.model("flash", d_model=512, depth=12, vocab=256)
    plan = flashir.plan(model, target="onnx:cpu", seq_len=4096)
    flashir.export(model, "out/", target="onnx:cpu", params=flashir.init(model))

Names are imported when first used, so that `import flashir` costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashir.checkpoint import load_checkpoint, save_checkpoint
    from flashir.compiler import Runnable, compile
    from flashir.decode import Decoding, decoding
    from flashir.errors import FlashirError
    from flashir.export import Exported, export
    from flashir.generation import Decoder, decoder, generate
    from flashir.interpreter import interpret
    from flashir.ir import AUTO, Builder, DType, Graph, TensorType, dumps, loads
    from flashir.models import load, model
    from flashir.parameters import init, load_params, save_params
    from flashir.planning import Plan, plan
    from flashir.sampling import Sampling
    from flashir.tune.candidates import Candidate
    from flashir.tune.search import tune

__version__ = "0.1.0"

_HOMES = {
    "checkpoint": ("load_checkpoint", "save_checkpoint"),
    "compiler": ("Runnable", "compile"),
    "decode": ("Decoding", "decoding"),
    "errors": ("FlashirError",),
    "export": ("Exported", "export"),
    "generation": ("Decoder", "decoder", "generate"),
    "interpreter": ("interpret",),
    "ir": ("AUTO", "Builder", "DType", "Graph", "TensorType", "dumps", "loads"),
    "models": ("load", "model"),
    "parameters": ("init", "load_params", "save_params"),
    "planning": ("Plan", "plan"),
    "sampling": ("Sampling",),
    "tune.candidates": ("Candidate",),
    "tune.search": ("tune",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AUTO", "Builder", "Candidate", "DType", "Decoder", "Decoding", "Exported", "FlashirError", "Graph", "Plan",
    "Runnable", "Sampling", "TensorType", "compile", "decoder", "decoding", "dumps", "export", "generate", "init",
    "interpret", "load", "load_checkpoint", "load_params", "loads", "model", "plan", "save_checkpoint", "save_params",
    "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'flashir' has no attribute {name!r}")
    return getattr(import_module(f"flashir.{_HOME_OF[name]}"), name)


class _Package(ModuleType):
    """This module. `flashir.tune` and `flashir.export` stay functions when the modules of those names get loaded."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
