"""Call public functions with wrong arguments: they must work, or raise a FlashirError.

Each function of `flashir.__all__` has a valid call by the names of its signature, of which one or two arguments are
replaced. Methods of the returned objects are called in the same way.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import flashir
from flashir.errors import FlashirError
from tests.campaign.case import Case
from tests.campaign.verdict import WrongError, found
from tests.campaign.weird import place, shown, weird

TEXT = "model @m(%x: f32[B, 4]) -> f32[B, 4] { %y = relu(%x) return %y }"


@cache
def _small() -> flashir.Graph:
    return flashir.model("flash", d_model=8, depth=1, key_dim=4, vocab=7, chunk=4, cumsum="native")


@cache
def _params() -> dict[str, Any]:
    return flashir.init(_small())


@cache
def _run() -> flashir.Runnable:
    return flashir.compile(_small(), "onnx:cpu", _params())


@cache
def _decoder() -> flashir.Decoder:
    return flashir.decoder(_small(), "onnx:cpu", _params())


@dataclass(frozen=True)
class Subject:
    """A public function to call.

    Args:
        call: the function.
        right: the folder of the case -> valid arguments by name.
        more: further arguments for `**`, with valid values.
        writes: the arguments that are output paths.
    """

    call: Callable[..., Any]
    right: Callable[[Path], dict[str, Any]]
    more: Mapping[str, Any] | None = None
    writes: tuple[str, ...] = ()

    def names(self) -> Iterator[str]:
        """The arguments that can be passed by name."""
        for parameter in inspect.signature(self.call).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "self":
                yield parameter.name
        yield from self.more or ()


def _ids() -> Any:
    return np.array([[1, 2, 3]])


def _file(folder: Path) -> Path:
    path = folder / "m.fir"
    path.write_text(TEXT)
    return path


def _saved(folder: Path) -> Path:
    flashir.save_params(_params(), folder / "p.safetensors")
    return folder / "p.safetensors"


def _checkpoint(folder: Path) -> Path:
    return flashir.save_checkpoint(_small(), _params(), folder / "saved")


def _step(ids: Any) -> Any:
    state, _ = _decoder().start([[1, 2]])
    return _decoder().extend(state, ids)


def _build(op: str, operand: Any, attrs: Any, name: str, type_: Any) -> Any:
    b = flashir.Builder("b")
    x = b.input(name, type_)
    return b.finish(*b.insert(op, (x, operand) if operand is not None else (x,), attrs))


def _generated(**given: Any) -> Any:
    return list(itertools.islice(flashir.generate(**given), 4))


_generated.__signature__ = inspect.signature(flashir.generate)  # type: ignore[attr-defined]

CHOICES = {"seed": 0, "batch": 1, "seq_len": 16, "chunk": 4, "cumsum": "scan", "dtype": "float32", "policy": "quality"}
SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("size", "task"), None), "d_model": 8, "depth": 1, "vocab": 7, "expansion": 2, "key_dim": 4,
    "heads": 2,
    "causal": True, "norm": "layer_norm", "chunk": 4, "cumsum": "scan", "lin_norm": "chunk", "qk_scale": "none",
    "max_len": 9,
    "use_local": True, "use_global": True, "segments": True, "tied": True, "dtype": "float32", "tile": 2,
    "rel_bias": "t5",
    "rope_dims": 2, "nosuch": 1,
}  # fmt: skip

SUBJECTS: dict[str, Subject] = {
    "Builder": Subject(flashir.Builder, lambda folder: {}),
    "Builder().input, insert, finish": Subject(
        _build, lambda folder: {"op": "relu", "operand": None, "attrs": {}, "name": "x", "type_": "f32[B, 4]"}
    ),
    "Sampling": Subject(flashir.Sampling, lambda folder: {}),
    "TensorType": Subject(flashir.TensorType, lambda folder: {"dtype": flashir.DType.F32, "shape": (2, 3)}),
    "compile": Subject(flashir.compile, lambda folder: {"model": _small(), "seq_len": 16}),
    "decoder": Subject(flashir.decoder, lambda folder: {"model": _small(), "seq_len": 16}, CHOICES),
    "decoding": Subject(flashir.decoding, lambda folder: {"model": _small()}),
    "dumps": Subject(flashir.dumps, lambda folder: {"graph": _small()}),
    "export": Subject(
        flashir.export, lambda folder: {"model": _small(), "out": folder / "out", "seq_len": 16}, CHOICES, ("out",)
    ),
    "generate": Subject(_generated, lambda folder: {"decoder": _decoder(), "prompts": [[1, 2]], "tokens": 3}),
    "init": Subject(flashir.init, lambda folder: {"model": _small()}),
    "interpret": Subject(flashir.interpret, lambda folder: {"graph": _small(), "params": _params(), "ids": _ids()}),
    "load": Subject(flashir.load, lambda folder: {"path": _file(folder)}),
    "load_checkpoint": Subject(flashir.load_checkpoint, lambda folder: {"folder": _checkpoint(folder)}),
    "load_params": Subject(flashir.load_params, lambda folder: {"path": _saved(folder)}),
    "loads": Subject(flashir.loads, lambda folder: {"text": TEXT}),
    "model": Subject(flashir.model, lambda folder: {"name": "flash", "size": "tiny"}, SETTINGS),
    "plan": Subject(flashir.plan, lambda folder: {"model": _small(), "seq_len": 16}),
    "save_checkpoint": Subject(
        flashir.save_checkpoint,
        lambda folder: {"model": _small(), "params": _params(), "folder": folder / "new"},
        writes=("folder",),
    ),
    "save_params": Subject(
        flashir.save_params, lambda folder: {"params": _params(), "path": folder / "q.safetensors"}, writes=("path",)
    ),
    "tune": Subject(flashir.tune, lambda folder: {"model": _small(), "seq_len": 16, "budget_s": 0.01}),
    "Runnable()": Subject(lambda **named: _run()(**named), lambda folder: {"ids": _ids()}, {"ids": None, "other": 1}),
    "Decoder.start": Subject(lambda prompts: _decoder().start(prompts), lambda folder: {"prompts": [[1, 2]]}),
    "Decoder.step": Subject(_step, lambda folder: {"ids": [1]}),
}


def case(case: Case) -> str:
    """A call with one or two wrong arguments."""
    random = case.random
    name = random.choice(list(SUBJECTS))
    subject = SUBJECTS[name]
    given = subject.right(case.folder)
    known = list(subject.names())
    if name == "interpret":
        known.append("ids")
    for argument in random.sample(known, min(len(known), random.choice([1, 1, 1, 2]))):
        given[argument] = place(random, case.folder) if argument in subject.writes else weird(random)
    if name == "model" and random.random() < 0.7:
        given["name"] = random.choice(
            ["flash", "flash-quad", "transformer", "performer", "combiner", "mc-transformer++"]
        )
    for argument in [argument for argument, value in given.items() if argument in ("size", "task") and value is None]:
        del given[argument]
    case.note("call", f"{name}({', '.join(f'{key}={shown(value)}' for key, value in given.items())})")
    try:
        subject.call(**given)
    except FlashirError as error:
        if not error.message.strip() or len(error.message) > 20_000:
            raise WrongError(f"{name}: an empty or endless message", f"{len(error.message)} characters") from error
        return f"{name}: refused"
    except Exception as error:
        leak = found(error)
        raise WrongError(f"{name}: {leak.sign}", leak.what) from error
    return f"{name}: done"
