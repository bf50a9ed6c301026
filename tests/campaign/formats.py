"""The file formats of flashir: how to make a valid file, and what to compare of its content."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import flashir
from flashir.backends.registry import backend_of
from flashir.errors import FlashirError
from tests.campaign import props
from tests.campaign.verdict import WrongError, found

IDS = np.arange(20)[None] % 7


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        make: writes a valid file into a folder.
        read: a folder -> the content that matters, comparable.
        guarded: whether damage must be noticed, because numbers depend on it and people do not edit it.
        slow: whether reading takes a second or more.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    guarded: bool = True
    slow: bool = False


def _exported(target: str, **options: Any) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        tokenizer = folder.parent / f"{folder.name}.tokenizer.json"
        _bytes().save(tokenizer)
        flashir.export(
            props.small(), folder, target=target, params=flashir.init(props.small(), 3), tokenizer=tokenizer, **options
        )

    return make


def _bytes() -> Any:
    from flashir.train.data.tokenizer import Tokenizer

    return Tokenizer.bytes()


def _run(target: str) -> Callable[[Path], object]:
    """The model and its logits."""

    def read(folder: Path) -> object:
        model, run = backend_of(target).load(folder, "cpu")  # type: ignore[attr-defined]
        return flashir.dumps(model), np.asarray(run([IDS])).tobytes()

    return read


def _decoded(folder: Path) -> object:
    """The logits of prompts and of a step of the decoder in the folder."""
    from flashir.generation.generate import restored

    decoder = restored(folder)
    state, prompts = decoder.start([[1, 2, 3], [4]])
    return prompts.tobytes(), decoder.extend(state, [5, 6])[1].tobytes()


def _onnx(folder: Path) -> object:
    return _run("onnx:cpu")(folder), _decoded(folder)


def _save_params(folder: Path) -> None:
    flashir.save_params(flashir.init(props.small(), 3), folder / "p.safetensors")


def _params(folder: Path) -> object:
    return {name: array.tobytes() for name, array in flashir.load_params(folder / "p.safetensors").items()}


def _save_checkpoint(folder: Path) -> None:
    from flashir.models.checkpoint import State

    model = props.small()
    params = flashir.init(model, 3)
    optimizer = {f"{kind}.{name}": np.full_like(a, 0.5) for name, a in params.items() for kind in ("mean", "square")}
    optimizer["count"] = np.array(7)
    tokenizer = folder.parent / "checkpoint.tokenizer.json"
    _bytes().save(tokenizer)
    state = State(optimizer, {"step": 7, "x": [1, 2]})
    flashir.save_checkpoint(model, params, folder, tokenizer=tokenizer, state=state)


def _checkpoint(folder: Path) -> object:
    from flashir.models.checkpoint import load_state

    found = flashir.load_checkpoint(folder)
    state = load_state(folder, found.params)
    tokenizer = None if found.tokenizer is None else found.tokenizer.read_bytes()
    arrays = {name: array.tobytes() for name, array in {**found.params, **state.optimizer}.items()}
    return flashir.dumps(found.model), arrays, tokenizer, json.dumps(state.position)


def _make_run(folder: Path) -> None:
    """A training run of two steps."""
    beside = folder.with_name("run-props")
    if not beside.exists():
        props.make(beside)
    shutil.copytree(beside / "run", folder, dirs_exist_ok=True)


def _read_run(folder: Path) -> object:
    """The newest checkpoint with its state, the recipe and the tokenizer, without the curve."""
    from flashir.train.data.tokenizer import Tokenizer
    from flashir.train.run_folder import RunFolder

    run = RunFolder(folder)
    newest = run.newest()
    tokens = Tokenizer.read(run.tokenizer).encode("It is").tolist()
    return str(newest.relative_to(folder)), _checkpoint(newest), tokens, str(run.recipe)


def _curve(folder: Path) -> object:
    from flashir.train.metrics import as_dict
    from flashir.train.run_folder import RunFolder

    return [as_dict(line) for line in RunFolder(folder).curve.lines()]


def _make_store(folder: Path) -> None:
    from flashir.planning.measurements.store import Store, new_tuning, now
    from flashir.planning.measurements.trial import Trial

    with Store(folder / "tune.sqlite", write=True) as store:
        for n in range(12):
            key = (f"{n:064x}", "onnx:cpu", "dev", "{}", False, 1, 4096, new_tuning())
            store.add(Trial(*key, '{"chunk":256,"cumsum":"scan"}', 12.5 + n, 10.25 + n, 0.5, 9, now()))
    _settled(folder / "tune.sqlite")


def _settled(path: Path) -> None:
    """The file without its journal."""
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()


def _store(folder: Path) -> object:
    from flashir.planning.measurements.store import Store

    with Store(folder / "tune.sqlite") as store:
        return [str(trial) for trial in store.all()]


@contextmanager
def _in_cache(folder: Path, name: str) -> Iterator[None]:
    """A file, or what is in its place, or nothing, at its place in the user's cache."""
    place = Path(os.environ["FLASHIR_CACHE"]) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    own = folder / Path(name).name
    _move(own, place)
    try:
        yield
    finally:
        _move(place, own)


def _move(path: Path, to: Path) -> None:
    """Move a file, a folder or a link, if there is one."""
    if os.path.lexists(path):
        shutil.move(path, to)


def _make_store_json(folder: Path) -> None:
    from flashir.planning.measurements.exchange import export_json

    _make_store(folder)
    with _in_cache(folder, "tune.sqlite"):
        export_json(folder / "store.json")
    (folder / "tune.sqlite").unlink()


def _store_json(folder: Path) -> object:
    from flashir.planning.measurements.exchange import import_json
    from flashir.planning.measurements.store import Store

    place = Path(os.environ["FLASHIR_CACHE"]) / "tune.sqlite"
    try:
        import_json(folder / "store.json")
        with Store() as store:
            return [str(trial) for trial in store.all()]
    finally:
        for path in place.parent.glob("tune.sqlite*"):
            path.unlink()


def _make_profile(folder: Path) -> None:
    import datetime

    import msgspec

    from flashir.machine.profile import SCHEMA, Profile, profile_key
    from flashir.machine.targets import target

    record = target("onnx:cpu")
    numbers = {"bandwidth": 0.9 * record.bandwidth, "peak.f32": 0.9 * record.peak["f32"], "call": 1.1 * record.call}
    made = Profile(SCHEMA, datetime.date(2026, 11, 1), profile_key(record), numbers)
    (folder / "onnx-cpu.json").write_bytes(msgspec.json.encode(made))


def _profile(folder: Path) -> object:
    """The target of a plan. If a profile is left out with a warning, it is the default one."""
    from flashir.machine.targets import target

    with _in_cache(folder, "profiles/onnx-cpu.json"):
        found = target("onnx:cpu")
    return repr((found.bandwidth, dict(found.peak), {k: v for k, v in vars(found).items() if isinstance(v, float)}))


def _make_bench(folder: Path) -> None:
    from tests.bench.test_record import FAILED, MEASURED, record

    record(MEASURED, FAILED).write(folder / "bench.json")


def _bench(folder: Path) -> object:
    from flashir.bench.record import read_record

    return json.dumps(read_record(folder / "bench.json").as_dict(), default=str)


def _make_corpus(folder: Path) -> None:
    """A text with its shards."""
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text(props.TEXT, encoding="utf-8")
    (folder / "text" / "b.txt").write_text("The cat sat on the mat.\n" * 90, encoding="utf-8")
    _corpus(folder)


def _corpus(folder: Path) -> object:
    from flashir.train.data.shards import prepare

    found = prepare([folder / "text"], _bytes(), folder / "shards")
    return [np.asarray(span.tokens).tobytes() for span in found.spans]


def _text(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def _fir(folder: Path) -> object:
    return flashir.dumps(flashir.load(folder / "m.fir"))


def _recipe(folder: Path) -> object:
    from flashir.train.recipe import recipe_of

    return str(recipe_of(folder / "recipe.toml", {}))


def _make_tokenizer(folder: Path) -> None:
    from flashir.train.data.text import documents
    from flashir.train.data.tokenizer import Tokenizer

    (folder / "a.txt").write_text(props.TEXT, encoding="utf-8")
    Tokenizer.trained(documents([folder / "a.txt"]), 300).save(folder / "tokenizer.json")
    (folder / "a.txt").unlink()


def _tokenizer(folder: Path) -> object:
    from flashir.train.data.tokenizer import Tokenizer

    found = Tokenizer.read(folder / "tokenizer.json")
    return found.vocab, found.encode("hello wörld, it is the cat").tolist(), found.decode(list(range(32, 60)))


def _make_record(folder: Path) -> None:
    from flashir.machine.targets import record_files

    (path,) = record_files()["onnx:cpu"]
    shutil.copy(path, folder)


def _read_record(folder: Path) -> object:
    from flashir.machine.targets import read_record

    return read_record(folder / "onnx-cpu.toml")


def _make_npy(folder: Path) -> None:
    np.save(folder / "ids.npy", IDS)


def _npy(folder: Path) -> object:
    from flashir.cli.tokens import read_array

    found = read_array(folder / "ids.npy")
    return found.shape, str(found.dtype), found.tobytes()


FORMATS: dict[str, Format] = {
    "onnx": Format(_exported("onnx:cpu", decode=True), _onnx),
    "pt2": Format(_exported("torch:cpu"), _run("torch:cpu"), slow=True),
    "jax": Format(_exported("jax:cpu"), _run("jax:cpu"), slow=True),
    "params": Format(_save_params, _params),
    "checkpoint": Format(_save_checkpoint, _checkpoint),
    "run": Format(_make_run, _read_run),
    "store": Format(_make_store, _store),
    "profile": Format(_make_profile, _profile),
    "shards": Format(_make_corpus, _corpus),
    "bench": Format(_make_bench, _bench),
    "store json": Format(_make_store_json, _store_json),
    "curve": Format(_make_run, _curve, guarded=False),
    "fir": Format(lambda folder: (folder / "m.fir").write_text(flashir.dumps(props.small())), _fir, guarded=False),
    "recipe": Format(_text("recipe.toml", props.RECIPE), _recipe, guarded=False),
    "tokenizer": Format(_make_tokenizer, _tokenizer, guarded=False),
    "npy": Format(_make_npy, _npy, guarded=False),
    "record": Format(_make_record, _read_record, guarded=False),
}
"""Formats by name. Files that people write or edit have no digest."""


def good(folder: Path, name: str) -> Path:
    """Make a valid file in a new folder."""
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FORMATS[name].make(folder)
    return folder


def reading(name: str, path: Path, place: str) -> str:
    """Read a file that may be malformed: `read` or `refused`. Raises WrongError with the sign `place` if it fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            FORMATS[name].read(path)
    except FlashirError as error:
        if len(error.message) > 20_000:
            raise WrongError(f"{place}: an endless message", f"{len(error.message)} characters") from error
        return "refused"
    except BaseException as error:
        leak = found(error)
        raise WrongError(f"{place}: {leak.sign}", leak.what) from error
    return "read"
