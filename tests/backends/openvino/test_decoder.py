"""A decoder as an artefact of OpenVINO: what other hosts see of it, that it is of one piece, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.backends.registry import backend_of
from flashir.errors import ArtefactError, TargetError
from flashir.exporting.quantise import rows_of
from flashir.generation.generate import decoder, generate, restored
from flashir.models.parameters import unit
from flashir.reference.compare import relative_error
from flashir_openvino import runtime
from tests.decode.support import ROOM, ZOO, model

TARGET = "openvino:cpu"
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 1]]
PARTS = {False: {"decoder.xml"}, True: {"prefill.xml", "step.xml"}}


def export(out: Path, name: str = "flash", seed: int = 0, **more: Any) -> Path:
    graph = model(name)
    flashir.export(graph, out, TARGET, unit(graph, seed), **{"decode": True, "max_len": ROOM, **more})
    return out


def texts(made: flashir.Decoder, count: int = 9) -> list[list[int]]:
    return [each.tolist() for each in generate(made, PROMPTS, tokens=count)]


@pytest.mark.parametrize("split", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "flash")) for n in sorted(ZOO)])
def test_what_is_read_back_goes_on_as_the_model_does(tmp_path: Path, name: str, split: bool) -> None:
    back = restored(export(tmp_path, name, split=split), TARGET)
    assert {path.name for path in tmp_path.iterdir()} == {"model.xml", "model.bin", *PARTS[split]}
    wanted = decoder(model(name), "onnx:cpu", unit(model(name)), max_len=ROOM)
    assert texts(back) == texts(wanted)
    assert (back.limit, back.model) == (wanted.limit, wanted.model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "int4", "float16"])
@pytest.mark.parametrize("split", [False, True])
def test_a_decoder_with_narrow_weights_computes_what_its_model_does(tmp_path: Path, kind: str, split: bool) -> None:
    graph = flashir.model("flash", d_model=128, depth=2, vocab=50, chunk=8)
    ids = np.arange(1, 31)[None]
    narrow = {"quantize": kind, "text": rows_of(ids), "tolerance": 9.0}
    made = flashir.export(graph, tmp_path, TARGET, unit(graph), decode=True, split=split, **narrow)
    whole = backend_of(TARGET).load(made.path, "cpu")[1]  # type: ignore[attr-defined]
    state, logits = restored(tmp_path, TARGET).start(ids[:, :20])
    rows = [logits]
    for token in ids[0, 20:]:
        state, logits = state.of.extend(state, [token])
        rows.append(logits)
    assert relative_error(np.concatenate(rows), whole([ids])[0, 19:]) < (1e-4 if kind == "float16" else 2e-2)


def test_a_host_reads_a_decoder_with_openvino_alone(tmp_path: Path) -> None:
    """It passes the results of one request to another, as the metadata say."""
    export(tmp_path)
    stored = runtime.core().read_model(str(tmp_path / "decoder.xml"), str(tmp_path / "model.bin"))
    about = json.loads(stored.get_rt_info("flashir").astype(str))
    states = json.loads(about["flashir.state"])
    assert states[0] == {
        "input": "layers.0.sum", "output": "next.layers.0.sum", "dtype": "float32", "shape": ["batch", 8, 32]
    }  # fmt: skip
    assert about["flashir.vocab"] == "11" and about["flashir.max_len"] == str(ROOM)
    compiled = runtime.core().compile_model(stored, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    requests = [compiled.create_infer_request() for _ in range(2)]
    kept = {state["input"]: np.zeros([2, *state["shape"][1:]], state["dtype"]) for state in states}
    ids = np.array([[1, 2, 3, 4, 5, 6, 7], [3, 1, 4, 1, 5, 9, 2]])
    for place in range(ids.shape[1]):
        feed = {"input_ids": ids[:, place : place + 1], "position_ids": np.full((2, 1), place), **kept}
        results = requests[place % 2].infer(feed)
        kept = {state["input"]: np.array(results[state["output"]]) for state in states}
    wanted = flashir.interpret(model("flash"), unit(model("flash")), ids)[0][:, -1]
    assert relative_error(results["logits"][:, 0], wanted) < 1e-4


@pytest.mark.slow
def test_the_command_line_continues_a_text_by_the_decoder(tmp_path: Path) -> None:
    graph = flashir.model("flash", d_model=16, depth=1, vocab=256, chunk=4, key_dim=8)
    flashir.export(graph, tmp_path, TARGET, unit(graph), decode=True)
    line = ["generate", str(tmp_path), "--target", TARGET, "--prompt", "a text", "--tokens", "5", "--temperature", "0"]
    run = subprocess.run([sys.executable, "-m", "flashir", *line, "--json"], capture_output=True, check=True)
    wanted = generate(decoder(graph, "onnx:cpu", unit(graph)), [list(b"a text")], tokens=5)
    assert json.loads(run.stdout)["results"][0]["tokens"] == [int(token[0]) for token in wanted]


def test_each_weight_is_stored_once(tmp_path: Path) -> None:
    graph = flashir.model("flash", d_model=64, depth=2, vocab=300, chunk=8)
    alone, both = (
        flashir.export(graph, tmp_path / name, TARGET, decode=name == "both").path.with_suffix(".bin").stat().st_size
        for name in ("alone", "both")
    )
    assert both < 1.3 * alone


def test_damaged_missing_and_mixed_parts_are_said(tmp_path: Path) -> None:
    out, other = export(tmp_path / "out"), export(tmp_path / "other", seed=1)
    shutil.copy(other / "decoder.xml", out)
    with pytest.raises(ArtefactError, match=r"model\.bin or decoder\.xml is damaged, or was changed"):
        restored(out, TARGET)
    (out / "decoder.xml").unlink()
    with pytest.raises(ArtefactError, match=r"its part decoder\.xml is missing"):
        restored(out, TARGET)


def test_an_export_without_a_decoder_removes_it(tmp_path: Path) -> None:
    export(tmp_path)
    export(tmp_path, decode=False)
    assert {path.name for path in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    assert texts(restored(tmp_path, TARGET, max_len=ROOM), 2)


def test_what_openvino_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="keeps states in the type that it computes in, f32, got f16"):
        export(tmp_path, states="float16")
    with pytest.raises(TargetError, match="writes for no host"):
        export(tmp_path, host="genai")
    assert not any(tmp_path.iterdir())
