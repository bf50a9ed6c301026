"""flashir: a small compiler for the FLASH family of linear-time transformers.

    import flashir

    model = flashir.model("flash", d_model=512, depth=12, vocab=256)
    plan = flashir.plan(model, target="onnx:cpu", seq_len=4096)
    flashir.export(model, "out/", target="onnx:cpu", params=flashir.init(model))

Names are imported on first use, so `import flashir` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashir.autotune.tune import tune
    from flashir.backends.decoding import Decoding, Extending, decoding, extending
    from flashir.errors import FlashirError
    from flashir.execution.compile import Runnable, compile
    from flashir.execution.native import jax_function, torch_module
    from flashir.exporting.export import export
    from flashir.exporting.exported import Exported
    from flashir.generation.generate import Decoder, decoder, generate
    from flashir.generation.sampling import Sampling
    from flashir.importing.convert import convert
    from flashir.importing.converted import Converted
    from flashir.ir import AUTO, Builder, DType, Graph, TensorType, dumps, loads
    from flashir.models.checkpoint import load_checkpoint, save_checkpoint
    from flashir.models.load import load, model
    from flashir.models.parameters import init, load_params, save_params
    from flashir.planning.candidates import Candidate
    from flashir.planning.plan import Plan, plan
    from flashir.reference.interpreter import interpret

from flashir.version import __version__

_MODULES = {
    "autotune.tune": ("tune",),
    "backends.decoding": ("Decoding", "Extending", "decoding", "extending"),
    "generation.generate": ("Decoder", "decoder", "generate"),
    "generation.sampling": ("Sampling",),
    "errors": ("FlashirError",),
    "execution.compile": ("Runnable", "compile"),
    "execution.native": ("jax_function", "torch_module"),
    "exporting.export": ("export",),
    "exporting.exported": ("Exported",),
    "importing.convert": ("convert",),
    "importing.converted": ("Converted",),
    "ir": ("AUTO", "Builder", "DType", "Graph", "TensorType", "dumps", "loads"),
    "models.checkpoint": ("load_checkpoint", "save_checkpoint"),
    "models.load": ("load", "model"),
    "models.parameters": ("init", "load_params", "save_params"),
    "planning.candidates": ("Candidate",),
    "planning.plan": ("Plan", "plan"),
    "reference.interpreter": ("interpret",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AUTO", "Builder", "Candidate", "Converted", "DType", "Decoder", "Decoding", "Exported", "Extending",
    "FlashirError", "Graph", "Plan", "Runnable", "Sampling", "TensorType", "__version__", "compile", "convert",
    "decoder", "decoding", "dumps", "export", "extending", "generate", "init", "interpret", "jax_function", "load",
    "load_checkpoint", "load_params", "loads", "model", "plan", "save_checkpoint", "save_params", "torch_module",
    "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'flashir' has no attribute {name!r}")
    return getattr(import_module(f"flashir.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
