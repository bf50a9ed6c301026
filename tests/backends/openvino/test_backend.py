"""OpenVINO against the float64 interpreter; what it narrows, what it keeps, what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.registry import backend
from flashir.errors import ArtefactError, TargetError
from flashir.ir import DType, Graph
from flashir.models.parameters import unit
from flashir.reference.compare import TOLERANCE, relative_error
from flashir_openvino import precision, reading, runtime
from flashir_openvino import session as session_module
from flashir_zoo.systems import SYSTEMS
from tests.backends.support import check, flash, session, tokens

TARGET = "openvino:cpu"
SMALL: dict[str, Any] = {"d_model": 16, "depth": 2, "vocab": 11}
SETTLED: dict[str, Any] = {"chunk": 4, "cumsum": "scan", "tile": 4, "max_len": 48, "key_dim": 8, "heads": 2}


def small(name: str, **more: Any) -> Graph:
    """A small model of that name with nothing left to choose."""
    own = SYSTEMS[name].specs()
    return flashir.model(name, **SMALL, **{key: value for key, value in SETTLED.items() if key in own}, **more)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        pytest.param(name, task, marks=() if (name, task) == ("flash", "lm") else pytest.mark.slow)
        for name in sorted(SYSTEMS)
        for task in ("lm", "mlm")
    ],
)
def test_every_system(name: str, task: str) -> None:
    check(TARGET, small(name, task=task), (1, 5, 14))


def test_a_single_token_first_spoils_nothing_after_it() -> None:
    """OpenVINO alone gives wrong attention for 16 tokens or more, where its kernels were made for one."""
    check(TARGET, small("transformer", task="mlm"), (1, 17))


def test_positions_are_exact_far_out() -> None:
    """In float32 arithmetic they are off by 1e-2 there."""
    b = flashir.ir.Builder("far")
    sin, cos = b.results("sinusoid_at", b.input("at", "i32[N]"), half=16)
    graph = b.finish(sin, cos)
    at = np.array([0, 63, 64, 4095, 131071, 10**6])
    for got, wanted in zip(session(TARGET, graph, {}).outputs([at]), flashir.interpret(graph, {}, at), strict=True):  # type: ignore[attr-defined]
        assert np.abs(got - wanted).max() < 1e-6


def test_tables_of_positions_are_exact() -> None:
    b = flashir.ir.Builder("table")
    rows = b.input("x", "f32[T]").type.shape[0]
    graph = b.finish(*b.results("sinusoid", length=rows, half=16))
    run: Any = session(TARGET, graph, {})
    for length in (1, 64, 200):
        x = np.zeros(length, np.float32)
        for got, wanted in zip(run.outputs([x]), flashir.interpret(graph, {}, x), strict=True):
            assert got.shape == wanted.shape
            assert np.abs(got - wanted).max() < 1e-6


def test_the_first_shapes_have_a_model_each_and_equal_inputs_give_equal_bits() -> None:
    model = flash()
    params = unit(model)
    run: Any = session(TARGET, model, params)
    own = []
    first: dict[int, Any] = {}
    for length in (5, 5, 0, 0, 9, 5, 9):
        ids = tokens(model, 2, length)
        got = run(ids)
        assert got.shape == (2, length, 11)
        assert not got.size or relative_error(got, flashir.interpret(model, params, *ids)[0]) < 1e-4
        assert np.array_equal(got, first.setdefault(length, got))
        own.append(len(run._fixed))
    assert own == [1, 1, 1, 1, 2, 2, 2]


def test_the_number_of_shapes_with_a_model_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MOST_FIXED", 1)
    model = flash()
    run: Any = session(TARGET, model, unit(model))
    for length in (5, 6, 6):
        run(tokens(model, 1, length))
    assert list(run._fixed) == [((1, 5),)]


def has_bfloat16() -> None:
    """Skip the test where the processor lacks the type."""
    if "BF16" not in runtime.computes_in("cpu"):
        pytest.skip("this processor has no bfloat16")


def test_a_kernel_turns_heads_and_products_take_their_activation_along() -> None:
    """Without these fusions a layer takes half as long again: see docs/results/openvino-cpu.md."""
    has_bfloat16()
    model = flashir.model("flash", d_model=64, depth=1, vocab=11, key_dim=32, chunk=16, cumsum="matmul")
    graph = Lowering.of(TARGET).run(flashir.plan(model, TARGET, dtype="bfloat16").graph)
    kinds = executed(graph, unit(model), [2, 48])
    assert kinds["RoPE"] == 1
    assert kinds["FullyConnected"] == 3
    assert kinds["SwishCPU"] == kinds["Subgraph"] == 0


def executed(graph: Graph, params: Any, shape: list[int]) -> Counter[str]:
    """How many kernels of each kind OpenVINO runs for inputs of a shape."""
    model = reading.read(graph, params)
    model.reshape(shape)
    compiled = session_module.compiled(model, "cpu", precision.compute_type(graph))
    return Counter(op.rt_info["layerType"].astype(str) for op in compiled.get_runtime_model().get_ops())


@pytest.mark.parametrize("cumsum", ["matmul", "native"])
def test_a_sum_by_a_mask_is_narrow_and_no_other(cumsum: str) -> None:
    model = flashir.model("flash", **SMALL, chunk=4, cumsum=cumsum, key_dim=8)
    narrow_model = flashir.plan(model, TARGET, dtype="bfloat16").graph
    before, after = (
        lowering.run(narrow_model) for lowering in (Lowering("", backend("openvino").claims), Lowering.of(TARGET))
    )
    wide_sums = [
        sum(node.op in ("matmul", "cumsum") and node.output.type.dtype is DType.F32 for node in graph.walk())
        for graph in (before, after)
    ]
    assert wide_sums == [1, 0 if cumsum == "matmul" else 1]
    params = unit(model)
    ids = tokens(model, 2, 14)
    one, other = (flashir.interpret(graph, params, *ids)[0] for graph in (before, after))
    assert relative_error(one, other) < 1e-12


@pytest.fixture
def narrow() -> Graph:
    """The model, where the processor has the type."""
    has_bfloat16()
    return flashir.plan(flashir.model("flash", size="tiny", chunk=64, cumsum="native"), TARGET, dtype="bfloat16").graph


def error_of(model: Graph, length: int) -> float:
    params = unit(model)
    ids = tokens(model, 1, length)
    return relative_error(session(TARGET, model, params)(ids), flashir.interpret(model, params, *ids)[0])


@pytest.mark.slow
def test_sums_stay_in_float32(narrow: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = error_of(narrow, 2048)
    assert kept < TOLERANCE[DType.BF16]
    monkeypatch.setattr(reading, "marked", lambda xml: xml)
    assert error_of(narrow, 2048) > 1.3 * kept


def test_a_type_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_in", lambda device: frozenset(("FP32", "FP16")))
    with pytest.raises(TargetError, match="no arithmetic in bf16; of the narrow types it has FP16"):
        flashir.compile(flash(), TARGET, dtype="bfloat16")


@pytest.mark.parametrize(
    "name", ["flash", *(pytest.param(n, marks=pytest.mark.slow) for n in ("performer", "transformer++"))]
)
def test_texts_are_continued_side_by_side(name: str) -> None:
    model = small(name)
    params = unit(model)
    wanted, got = (greedy(flashir.decoder(model, target, params, max_len=48)) for target in ("onnx:cpu", TARGET))
    assert got == wanted


def greedy(decoder: Any) -> list[list[int]]:
    """Continue two texts in turn from states of their own, and read a long turn of one of them."""
    prompts: Sequence[list[int]] = ([1, 2, 3, 4, 5], [7])
    begun = [decoder.start(np.array([prompt])) for prompt in prompts]
    texts: list[list[int]] = [[], []]
    for _ in range(8):
        for place, (state, logits) in enumerate(begun):
            token = int(np.argmax(logits[0]))
            texts[place].append(token)
            begun[place] = decoder.extend(state, np.array([token]))
    _, logits = decoder.extend(begun[1][0], np.arange(19)[None] % 11)
    return [*texts, [int(np.argmax(logits[0]))]]


@pytest.mark.slow
def test_it_is_tuned_and_timed_from_the_command_line(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "flashir"]
    about = ["flash", "--size", "tiny", "-s", "depth=1", "--target", TARGET, "--json"]
    env = {**os.environ, "FLASHIR_CACHE": str(tmp_path)}
    more = {"tune": ["--seq-len", "64"], "bench": ["--lengths", "64", "--rounds", "2", "-o", str(tmp_path)]}
    tuned, timed = (
        json.loads(subprocess.run([*run, verb, *about, *words], env=env, capture_output=True, check=True).stdout)
        for verb, words in more.items()
    )
    assert tuned["measured_ms"] > 0
    assert sum("measured_ms" in candidate for candidate in tuned["candidates"]) >= 3
    assert [row["chunk"] for row in timed["rows"]] == [tuned["chunk"]], "bench plans by what was tuned"
    assert timed["rows"][0]["median_ms"] > 0


def test_an_artefact_is_loaded_and_gives_its_parameters_back_which_decode(tmp_path: Path) -> None:
    model = flash()
    params = unit(model)
    made = flashir.export(model, tmp_path, TARGET, params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    loaded, run = backend("openvino").load(made.path, "cpu")  # type: ignore[attr-defined]
    ids = tokens(loaded, 2, 9)
    assert relative_error(run(ids), flashir.interpret(model, params, *ids)[0]) < 1e-4
    stored, arrays = backend("openvino").stored(tmp_path)  # type: ignore[attr-defined]
    assert stored == loaded
    assert arrays.keys() == params.keys()
    assert all(np.array_equal(arrays[name], params[name]) for name in params)
    got = flashir.decoder(model, TARGET, arrays).start(ids[0])[1]  # they are read-only
    assert relative_error(got, flashir.interpret(model, params, *ids)[0][:, -1]) < TOLERANCE[DType.F32]


def test_damage_and_missing_weights_are_seen(tmp_path: Path) -> None:
    made = flashir.export(flash(), tmp_path, TARGET)
    for name in ("model.xml", "model.bin"):
        whole = (tmp_path / name).read_bytes()
        content = bytearray(whole)
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtefactError, match="damaged"):
            backend("openvino").load(made.path, "cpu")  # type: ignore[attr-defined]
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(ArtefactError, match=r"model\.bin are missing"):
        backend("openvino").load(made.path, "cpu")  # type: ignore[attr-defined]


def test_a_missing_and_an_old_openvino_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "version", lambda name: "2024.6.0")
    with pytest.raises(TargetError, match=r"too old: wanted 2026\.4 or later, got 2024\.6\.0"):
        backend("openvino").versions()

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(runtime, "version", absent)
    with pytest.raises(TargetError, match="not installed"):
        backend("openvino").compile(flash(), {}, "cpu")
    assert flashir.plan(flashir.model("flash", size="tiny"), TARGET).chunk


def test_nothing_is_sent_anywhere() -> None:
    """OpenVINO starts a process that sends statistics, if it finds the package for it."""
    code = "import flashir_openvino.runtime as r, sys; r.core(); r.device_names(); print(sys.modules[r.TELEMETRY])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "None\n"


@pytest.mark.parametrize(("split", "file"), [(True, "step.onnx"), (False, "decoder.onnx")])
def test_openvino_reads_portable_decoders(tmp_path, split, file):
    model = flashir.model("flash", d_model=16, depth=2, vocab=11, chunk=5, key_dim=8)
    flashir.export(model, tmp_path, decode=True, split=split, portable=True)
    runtime.core().compile_model(str(tmp_path / file), "CPU")
