"""Every kind of file that flashir writes and reads back, and what a disk may do to it: a table for tests and campaigns.

    for name, kind in KINDS.items():
        kind.make(folder)                                # the files, sound
        sound = kind.read(folder)                        # what the program takes from them
        damage = Damage.drawn(folder, random)
        damage.do(folder)
        assert outcome(kind, folder, sound) != WRONG     # refused, warned of, or the same as before

What people write by hand has no digest, and is not here: a recipe.toml, a .fir file.
"""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import flashir
from flashir.errors import FlashirError

SAME, REFUSED, WARNED, WRONG = "same", "refused", "warned", "WRONG"
BLOCK = 512
"""Bytes that a disk loses at once."""
HEAD = 3000
"""Bytes at the beginning of a file where more damage is done than elsewhere: headers are there."""


@dataclass(frozen=True)
class FileKind:
    """Files that flashir writes and reads back.

    Args:
        make: writes them, sound, into an empty folder.
        read: what the program takes from them; it raises FlashirError or warns where they are damaged.
        slow: whether a read takes seconds.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    slow: bool = False


@dataclass(frozen=True)
class Damage:
    """What happens to one file.

    Args:
        file: its path in the folder.
        what: `flip`, `cut` or `zeros`.
        position: byte where it begins.
        bit: that a flip changes.
    """

    file: str
    what: str
    position: int
    bit: int = 0

    @classmethod
    def drawn(cls, folder: Path, random: Random) -> Damage:
        """One at random: mostly a flipped bit, of large files and of their beginnings rather than of small ones."""
        files = sorted(each for each in folder.rglob("*") if each.is_file() and each.stat().st_size)
        file = random.choices(files, [min(each.stat().st_size, 20_000) + 500 for each in files])[0]
        size = file.stat().st_size
        position = random.randrange(size if random.random() < 0.6 else min(size, HEAD))
        what = random.choices(("flip", "cut", "zeros"), (8, 1, 1))[0]
        return cls(str(file.relative_to(folder)), what, position, random.randrange(8))

    def do(self, folder: Path) -> None:
        """Do it to the file in a folder."""
        path = folder / self.file
        content = bytearray(path.read_bytes())
        if self.what == "flip":
            content[self.position] ^= 1 << self.bit
        elif self.what == "cut":
            del content[self.position :]
        else:
            end = min(self.position + BLOCK, len(content))
            content[self.position : end] = bytes(end - self.position)
        path.write_bytes(content)


def outcome(kind: FileKind, folder: Path, sound: object) -> str:
    """What comes of reading damaged files: SAME, REFUSED, WARNED or WRONG. Whatever else is raised is a finding too."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = kind.read(folder)
        except FlashirError:
            return REFUSED
    if any(issubclass(each.category, UserWarning) for each in told):
        return WARNED
    return SAME if found == sound else WRONG


def _model() -> flashir.Graph:
    return flashir.model("flash", d_model=16, depth=2, vocab=257, key_dim=8, chunk=8, cumsum="matmul")


def _params() -> dict[str, Any]:
    return flashir.init(_model(), 3)


_IDS = np.arange(20)[None]


def _plain(arrays: Any) -> dict[str, tuple[Any, ...]]:
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def _read_params(folder: Path) -> object:
    return _plain(flashir.load_params(folder / "params.safetensors"))


def _make_checkpoint(folder: Path) -> None:
    from flashir.backends.optimizer_state import Moments
    from flashir.models.checkpoint import State, save_checkpoint
    from flashir.models.end_tokens import Reading

    _make_tokenizer(folder.parent / "tokenizer.json")
    state = State(Moments.read(None, _params()).state(), {"step": 7, "data": "0" * 64})
    tokenizer = folder.parent / "tokenizer.json"
    save_checkpoint(_model(), _params(), folder, tokenizer=tokenizer, reading=Reading(None, True), state=state)


def _read_checkpoint(folder: Path) -> object:
    from flashir.models.checkpoint import load_checkpoint, load_state

    found = load_checkpoint(folder)
    state = load_state(folder, found.params)
    tokenizer = None if found.tokenizer is None else found.tokenizer.read_bytes()
    kept = (flashir.dumps(found.model), tokenizer, found.reading)
    return kept, _plain(found.params), _plain(state.optimizer), dict(state.position)


def _make_tokenizer(path: Path) -> None:
    from flashir.train.data import Tokenizer

    Tokenizer.bytes().save(path)


def _export(target: str, **options: Any) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        if "tokenizer" in options:
            _make_tokenizer(folder.parent / "tokenizer.json")
            options["tokenizer"] = folder.parent / "tokenizer.json"
        flashir.export(_model(), folder, target, _params(), **options)

    return make


def _export_beside(folder: Path) -> None:
    """An ONNX model whose weights are in a file beside it, as those of large models are."""
    from flashir_onnx import weights

    inside, weights.LARGEST_INSIDE = weights.LARGEST_INSIDE, 0
    try:
        flashir.export(_model(), folder, "onnx:cpu", _params())
    finally:
        weights.LARGEST_INSIDE = inside


def _run(target: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from flashir.backends.registry import backend_of

        found: Any = backend_of(target)
        model, run = found.load(folder, "cpu")
        return flashir.dumps(model), np.asarray(run([_IDS])).tobytes(), _plain(found.stored(folder)[1])

    return read


def _continue(folder: Path) -> object:
    from flashir.backends.registry import backend_of
    from flashir.generation.generate import restored
    from flashir.models.tokenizer_file import tokenizer_beside

    decoder = restored(folder)
    state, logits = decoder.start([[1, 2, 3], [4]])
    _, after = decoder.extend(state, [5, 6])
    backend: Any = backend_of("onnx:cpu")
    tokenizer = tokenizer_beside(folder / "model.onnx", backend.metadata(folder))
    return logits.tobytes(), after.tobytes(), None if tokenizer is None else tokenizer.read_bytes()


def _trials() -> Iterator[Any]:
    from tests.tune.support import TRIAL

    for number in range(12):
        yield replace(TRIAL, model=f"{number:064x}", seq_len=500 + number, measured_ms=10.25 + number)


def _make_store(folder: Path) -> None:
    from flashir.planning.measurements.store import Store

    with Store(folder / "tune.sqlite", write=True) as store:
        store.add(*_trials())
    with sqlite3.connect(folder / "tune.sqlite") as one_file:
        one_file.execute("PRAGMA journal_mode = DELETE")
    one_file.close()


def _read_store(folder: Path) -> object:
    from flashir.planning.measurements.store import Store

    with Store(folder / "tune.sqlite") as store:
        return store.all()


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """That folder as the cache."""
    before = os.environ.get("FLASHIR_CACHE")
    os.environ["FLASHIR_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FLASHIR_CACHE"]
        else:
            os.environ["FLASHIR_CACHE"] = before


def _make_exchange(folder: Path) -> None:
    from flashir.planning.measurements.exchange import export_json
    from flashir.planning.measurements.store import Store

    with _cache(folder.parent):
        with Store(write=True) as store:
            store.add(*_trials())
        export_json(folder / "all.json")


def _read_exchange(folder: Path) -> object:
    from flashir.planning.measurements.exchange import import_json
    from flashir.planning.measurements.key import store_path
    from flashir.planning.measurements.store import Store

    with _cache(folder.parent / "other"):
        store_path().unlink(missing_ok=True)
        import_json(folder / "all.json")
        with Store() as store:
            return store.all()


def _make_profile(folder: Path) -> None:
    from datetime import date

    import msgspec

    from flashir.machine.profile import SCHEMA, Profile, profile_key, profile_path
    from flashir.machine.targets import target

    with _cache(folder):
        record = target("onnx:cpu", calibrated=False)
        told = ("peak.f32", "bandwidth", "cache_bandwidth", "vector", "launch", "step", "slowdown.scan")
        numbers = {name: record.number(name) * 1.25 for name in told}
        profile = Profile(SCHEMA, date(2026, 11, 24), profile_key(record), numbers)
        profile_path("onnx:cpu").parent.mkdir(parents=True)
        profile_path("onnx:cpu").write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2))


def _read_profile(folder: Path) -> object:
    from flashir.machine.targets import target

    with _cache(folder):
        return repr(target("onnx:cpu"))


_TEXT = "the cat sat on the mat. it is a truth universally acknowledged, " * 9 + "l'été où ça 東京. " * 9


def _texts(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        (folder / f"{number}.txt").write_text(_TEXT[number * 100 :])
    return folder


def _make_bpe(folder: Path) -> None:
    from flashir.train.data import Tokenizer, documents

    Tokenizer.trained(documents([_texts(folder.parent / "texts")]), 280).save(folder / "tokenizer.json")


def _read_tokenizer(folder: Path) -> object:
    from flashir.train.data import Tokenizer

    found = Tokenizer.read(folder / "tokenizer.json")
    ids = found.encode(_TEXT).tolist()
    return found.vocab, found.mask, found.is_bytes, ids, found.decode(ids), found.decode(range(256))


def _make_shards(folder: Path) -> None:
    _read_shards(folder)


def _read_shards(folder: Path) -> object:
    from flashir.train.data import Tokenizer, prepare

    corpus = prepare([_texts(folder.parent / "texts")], Tokenizer.bytes(), folder)
    return corpus.digest, [np.asarray(span.tokens).tobytes() for span in corpus.spans]


def _make_record(folder: Path) -> None:
    from tests.bench.test_record import FAILED, MEASURED, record

    record(MEASURED, FAILED).write(folder / "bench.json")


def _read_record(folder: Path) -> object:
    from flashir.bench.record import read_record

    return read_record(folder / "bench.json")


_STEPS = 20


def _make_curve(folder: Path) -> None:
    from flashir.train.metrics import Clock, Curve, Line

    for step in range(1, _STEPS + 1):
        loss = {"validation_loss": 5.5 / step} if step % 5 == 0 else {}
        Curve(folder / "metrics.jsonl").append(Line(step, 64 * step, 5 / step, 1e-3, 0.5, Clock(0.25, 0.01), **loss))


def _read_curve(folder: Path) -> object:
    from flashir.train.metrics import Curve

    curve = Curve(folder / "metrics.jsonl")
    curve.cut(_STEPS)
    return list(curve.lines())


KINDS: dict[str, FileKind] = {
    "params": FileKind(lambda folder: flashir.save_params(_params(), folder / "params.safetensors"), _read_params),
    "checkpoint": FileKind(_make_checkpoint, _read_checkpoint),
    "onnx": FileKind(_export("onnx:cpu"), _run("onnx:cpu")),
    "onnx beside": FileKind(_export_beside, _run("onnx:cpu")),
    "onnx float16": FileKind(_export("onnx:cpu", dtype="float16"), _run("onnx:cpu")),
    "onnx int8": FileKind(_export("onnx:cpu", quantize="int8"), _run("onnx:cpu")),
    "onnx decoder": FileKind(_export("onnx:cpu", decode=True, tokenizer=None), _continue),
    "torch": FileKind(_export("torch:cpu"), _run("torch:cpu"), slow=True),
    "jax": FileKind(_export("jax:cpu"), _run("jax:cpu"), slow=True),
    "store": FileKind(_make_store, _read_store),
    "store as JSON": FileKind(_make_exchange, _read_exchange),
    "profile": FileKind(_make_profile, _read_profile),
    "tokenizer of bytes": FileKind(lambda folder: _make_tokenizer(folder / "tokenizer.json"), _read_tokenizer),
    "tokenizer": FileKind(_make_bpe, _read_tokenizer),
    "shards": FileKind(_make_shards, _read_shards),
    "benchmark": FileKind(_make_record, _read_record),
    "curve": FileKind(_make_curve, _read_curve),
}
