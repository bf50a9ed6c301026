"""Artefacts: what is in them, that damage is seen, and that nothing leaves one half-written."""

from __future__ import annotations

import errno
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest

import flashir
from flashir import Graph
from flashir.backends.protocols import Exporter
from flashir.errors import ArtefactError, TargetError
from flashir_onnx import OnnxBackend, weights
from flashir_onnx.verify import all_nodes, verify
from flashir_zoo.systems import SYSTEMS
from tests.backends.onnx.support import flash, lowered, tokens, unit

BACKEND = OnnxBackend()


@pytest.fixture(params=["inside", "beside"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where weights go: into model.onnx, or into a file beside it, as if they were large."""
    if request.param == "beside":
        monkeypatch.setattr(weights, "LARGEST_INSIDE", 0)
    place: str = request.param
    return place


@cache
def usual() -> tuple[Graph, Graph]:
    """A model, and what it is lowered to."""
    model = flash(segments=True)
    return model, lowered(model)


def export(out: Path, seed: int = 0, model: Graph | None = None, **metadata: str) -> Path:
    model, low = usual() if model is None else (model, lowered(model))
    return BACKEND.export(model, low, unit(model, seed), out, metadata).path


def data_files(out: Path) -> list[Path]:
    return sorted(out.glob("model-*.data"))


def logits(path: Path) -> Any:
    model, run = BACKEND.load(path, "cpu")
    return run(tokens(model, 2, 9))


def test_the_backend_is_an_exporter() -> None:
    assert isinstance(BACKEND, Exporter)


def test_round_trip(tmp_path: Path, place: str) -> None:
    model, low = usual()
    path = export(tmp_path / "new" / "folder")
    assert [file.name for file in path.parent.iterdir() if file not in data_files(path.parent)] == ["model.onnx"]
    assert len(data_files(path.parent)) == (place == "beside")
    for source in (path, path.parent):
        loaded, run = BACKEND.load(source, "cpu")
        ids = tokens(model, 2, 9)
        assert loaded == model
        assert np.array_equal(run(ids), BACKEND.compile(low, unit(model), "cpu")(ids))


def test_lean_loading_gives_the_same(tmp_path: Path, place: str) -> None:
    path = export(tmp_path)
    model, run = BACKEND.load(path, "cpu", lean=True)
    np.testing.assert_allclose(run(tokens(model, 2, 9)), logits(path), rtol=1e-5, atol=1e-5)


def test_what_users_of_the_file_see(tmp_path: Path, place: str) -> None:
    """Names, types and symbolic sizes of the interface, and that plain ONNX Runtime runs it at any batch and length."""
    session = ort.InferenceSession(export(tmp_path), providers=["CPUExecutionProvider"])
    shown = [(x.name, x.type, x.shape) for x in (*session.get_inputs(), *session.get_outputs())]
    assert shown == [
        ("input_ids", "tensor(int64)", ["batch", "sequence"]),
        ("segment_ids", "tensor(int64)", ["batch", "sequence"]),
        ("logits", "tensor(float)", ["batch", "sequence", 11]),
    ]
    for shape in ((1, 1), (3, 13), (2, 0)):
        feed = {"input_ids": np.ones(shape, np.int64), "segment_ids": np.zeros(shape, np.int64)}
        assert session.run(["logits"], feed)[0].shape == (*shape, 11)


def test_metadata(tmp_path: Path, place: str) -> None:
    model = flash()
    path = export(tmp_path, model=model, **{"flashir.target": "onnx:cpu", "note": "été"})
    found = {each.key: each.value for each in onnx.load(path, load_external_data=False).metadata_props}
    assert flashir.loads(found["flashir.model"]) == model
    assert found["flashir.version"] == flashir.__version__
    assert (found["flashir.target"], found["note"]) == ("onnx:cpu", "été")
    assert len(found["flashir.sha256"]) == 64
    named = [f"model-{found['flashir.data.sha256'][:12]}.data"] if place == "beside" else []
    assert [file.name for file in data_files(tmp_path)] == named


def test_same_model_same_bytes(tmp_path: Path, place: str) -> None:
    one, other = export(tmp_path / "one"), export(tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("cumsum", ["scan", "matmul", "native"])
def test_no_einsum_anywhere_and_layers_are_functions(tmp_path: Path, cumsum: str) -> None:
    model = onnx.load(export(tmp_path, model=flash(cumsum=cumsum, segments=False)))
    kinds = {node.op_type for node in all_nodes(model)}
    assert "Einsum" not in kinds
    assert {"MatMul", "LayerNormalization", "layer"} <= kinds
    assert ("Scan" in kinds, "CumSum" in kinds) == (cumsum == "scan", cumsum == "native")
    assert sum(node.op_type == "layer" for node in model.graph.node) == 2


# Damage


def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path: Path, place: str) -> None:
    path = export(tmp_path)
    rng = random.Random(0)
    for file in (path, *data_files(tmp_path)):
        whole = file.read_bytes()
        for position in (0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(60))):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(ArtefactError, match=str(tmp_path)):
                BACKEND.load(path, "cpu")
        file.write_bytes(whole)
    BACKEND.load(path, "cpu")


def test_truncation_is_seen(tmp_path: Path, place: str) -> None:
    path = export(tmp_path)
    for file in (path, *data_files(tmp_path)):
        whole = file.read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:length])
            with pytest.raises(ArtefactError, match=file.name):
                BACKEND.load(path, "cpu")
        file.write_bytes(whole)


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGEST_INSIDE", 0)
    path = export(tmp_path)
    (data,) = data_files(tmp_path)
    data.unlink()
    with pytest.raises(ArtefactError, match=f"{data.name} is missing"):
        BACKEND.load(path, "cpu")
    path.unlink()
    with pytest.raises(ArtefactError, match="No such file"):
        BACKEND.load(path, "cpu")


def test_a_model_of_others_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ArtefactError, match="contains no flashir model"):
        BACKEND.load(path, "cpu")


# Verification


def broken(change: Callable[[onnx.ModelProto], object], path: Path) -> Path:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def first(nodes: Any, kind: str) -> Any:
    return next(node for node in nodes if node.op_type == kind)


def set_attribute(model: onnx.ModelProto) -> None:
    first(model.functions[0].node, "MatMul").attribute.add(name="nonsense", i=1, type=onnx.AttributeProto.INT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(first(m.functions[0].node, "Mul"), "op_type", "And"), "InferenceError|Inference error"),
        (lambda m: setattr(first(m.functions[0].node, "Mul"), "op_type", "Nonsense"), "No Op registered"),
        (set_attribute, "Unrecognized attribute"),
        (lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[2], "dim_value", 99), "99"),
        (lambda m: setattr(first(m.functions[0].node, "MatMul"), "op_type", "Einsum"), "ONNX refuses|Einsum"),
    ],
    ids=["types", "operators", "attributes", "shapes", "einsum"],
)
def test_verification_looks_into_functions(tmp_path: Path, change: Callable[..., object], message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        verify(broken(change, export(tmp_path)))


def test_verification_finds_a_valid_einsum(tmp_path: Path) -> None:
    def einsum(model: onnx.ModelProto) -> None:
        node = first(model.functions[0].node, "MatMul")
        node.op_type = "Einsum"
        node.attribute.add(name="equation", s=b"...ij,...jk->...ik", type=onnx.AttributeProto.STRING)

    with pytest.raises(ArtefactError, match="Einsum nodes"):
        verify(broken(einsum, export(tmp_path)))


def test_an_export_says_what_was_checked(tmp_path: Path) -> None:
    model, low = usual()
    checks = BACKEND.export(model, low, unit(model), tmp_path, {}).checks
    assert any("opset 17" in line and "1 function" in line for line in checks)
    assert any("Einsum" in line for line in checks)


def test_a_model_that_fails_verification_leaves_the_old_one(tmp_path: Path, place: str) -> None:
    export(tmp_path, seed=0)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def refuse(run: object) -> None:
        raise ArtefactError("not good enough")

    model, low = usual()
    with pytest.raises(ArtefactError, match="not good enough"):
        BACKEND.export(model, low, unit(model, 1), tmp_path, {}, refuse)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# Interruptions


def test_a_new_artefact_takes_the_place_of_the_old_and_of_leftovers(tmp_path: Path, place: str) -> None:
    export(tmp_path, seed=0)
    (tmp_path / "model-0123456789ab.data").write_bytes(b"of an export that was killed")
    (tmp_path / ".model.onnx.01234567.unfinished").write_bytes(b"too")
    others = [tmp_path / "model-mine.data", tmp_path / "notes.txt"]
    for file in others:
        file.write_bytes(b"not ours")
    export(tmp_path, seed=1)
    assert len(list(tmp_path.iterdir())) == len(others) + 1 + (place == "beside")
    assert all(file.exists() for file in others)


def test_a_full_or_broken_disk_leaves_the_old_artefact(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up after any number of bytes, in either file."""
    path = export(tmp_path, seed=0)
    before, wanted = {file.name for file in tmp_path.iterdir()}, logits(path)
    needed = sum(file.stat().st_size for file in tmp_path.iterdir())
    full, broken = errno.ENOSPC, errno.EIO
    for space, code in ((0, full), (needed // 3, broken), (needed - 1000, broken), (needed - 1, full)):
        with monkeypatch.context() as patch:
            fill_up(patch, space, code)
            with pytest.raises(ArtefactError, match="cannot write") as caught:
                export(tmp_path, seed=1)
        assert str(tmp_path) in str(caught.value)
        assert ("free some space" in str(caught.value)) == (code == full)
        assert {file.name for file in tmp_path.iterdir()} == before
        assert np.array_equal(logits(path), wanted)


def fill_up(patch: pytest.MonkeyPatch, space: int, code: int) -> None:
    """Let files that are opened for writing take `space` bytes in all, then fail."""
    opened, left = Path.open, [space]

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, block: Any) -> int:
            left[0] -= len(block)
            if left[0] < 0:
                raise OSError(code, "no more")
            return self.file.write(block)

    def open_(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        file = opened(path, mode, *rest, **named)
        return Full(file) if "x" in mode else file  # type: ignore[arg-type]

    patch.setattr(Path, "open", open_)


EXPORT_FOREVER = """
import sys
from pathlib import Path
from flashir_onnx import weights
from tests.backends.onnx.test_artefact import export, flash
weights.LARGEST_INSIDE = int(sys.argv[2])
print("ready", flush=True)
seed = 0
while True:
    seed += 1
    export(Path(sys.argv[1]), seed % 2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("largest_inside", "kills"),
    [(0, 1), (2**27, 1), *(pytest.param(size, 5, marks=pytest.mark.slow) for size in (0, 2**27))],
)
def test_a_kill_at_any_moment_leaves_a_whole_artefact(tmp_path: Path, largest_inside: int, kills: int) -> None:
    """An export over and over of two models in turn, killed at random moments: what is there is one of the two."""
    out = tmp_path / "out"
    wanted = [logits(export(tmp_path / str(seed), seed)) for seed in (0, 1)]
    export(out, 0)
    command = [sys.executable, "-c", EXPORT_FOREVER, str(out), str(largest_inside)]
    rng = random.Random(largest_inside)
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.1 + rng.random() / 4)
            process.send_signal(signal.SIGKILL)
        found = logits(out)
        assert any(np.array_equal(found, each) for each in wanted)
    export(out, 1)
    assert len(list(out.iterdir())) == 1


@pytest.mark.parametrize("blocked", ["folder", "file"])
def test_places_that_cannot_be_written(tmp_path: Path, blocked: str) -> None:
    if blocked == "folder":
        (tmp_path / "model.onnx").mkdir()
        out = tmp_path
    else:
        (tmp_path / "out").write_text("a file where the folder should be")
        out = tmp_path / "out"
    with pytest.raises(ArtefactError, match="cannot write"):
        export(out)
    assert not list(tmp_path.glob("**/*.unfinished"))


# Types


def test_bfloat16_is_refused_before_any_work(tmp_path: Path) -> None:
    model = flash(dtype="bfloat16")
    with pytest.raises(TargetError, match=r"bf16.*\n.*float32 or float16"):
        export(tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


def test_float16_artefacts_are_half_the_size_and_run(tmp_path: Path, place: str) -> None:
    sizes = {}
    for dtype in ("float32", "float16"):
        path = export(tmp_path / dtype, model=flash(dtype=dtype))
        sizes[dtype] = sum(tensor_bytes(tensor) for tensor in onnx.load(path).graph.initializer)
        assert np.isfinite(logits(path)).all()
    assert sizes["float16"] < 0.6 * sizes["float32"]


def tensor_bytes(tensor: Any) -> int:
    return len(tensor.raw_data)


def test_a_portable_export_has_operators_of_the_standard_alone(tmp_path: Path) -> None:
    model = flashir.model("flash", size="tiny", chunk=4, cumsum="native")
    for portable, domains in ((False, {"", "flashir", "com.microsoft"}), (True, {""})):
        made = flashir.export(model, tmp_path / str(portable), "onnx:cpu", portable=portable)
        found = onnx.load(made.path)
        assert {each.domain for each in found.opset_import} == domains
        assert {node.domain for node in all_nodes(found)} == domains


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_exported_with_operators_of_the_runtime(tmp_path: Path, name: str) -> None:
    """The tools of ONNX do not know what such an operator makes; the file has to say it."""
    model = flashir.plan(flashir.model(name, d_model=32, depth=2, vocab=11), "onnx:cpu", seq_len=64).graph
    path = export(tmp_path, model=model)
    verify(path)
    kinds = {node.op_type for node in all_nodes(onnx.load(path))}
    assert ("RotaryEmbedding" in kinds) == (name != "transformer")


def test_portable_is_refused_where_all_is(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="has no portable form"):
        flashir.export(flashir.model("flash", size="tiny", chunk=4), tmp_path, "torch:cpu", portable=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("flash", {"chunk": 1}), ("flash", {"chunk": 2}), ("performer", {"tile": 1}), ("mc-transformer++", {"chunk": 1})],
    ids=str,
)
def test_any_host_runs_it_on_nothing(name: str, settings: dict[str, int], tmp_path: Path) -> None:
    """ONNX Runtime fails on a loop of no rounds; of chunks there is one at least, and of tokens none."""
    import onnxruntime

    model = flashir.model(name, size="tiny", depth=1, vocab=11, cumsum="scan", **settings)
    params = flashir.init(model)
    flashir.export(model, tmp_path, params=params)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for rows, length in ((1, 0), (0, 3), (0, 0), (2, 1), (2, 5)):
        ids = np.arange(rows * length).reshape(rows, length) % 11
        (found,) = session.run(None, {"input_ids": ids})
        assert found.shape == (rows, length, 11)
        if ids.size:
            np.testing.assert_allclose(found, flashir.interpret(model, params, ids)[0], atol=1e-5)
