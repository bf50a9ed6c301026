"""Portable exports in every runtime that is here: the error of each model and decoder against the interpreter.

    python -m flashir_onnx.experiments.consumers
    python -m flashir_onnx.experiments.consumers --models flash performer --opset 23
    python -m flashir_onnx.experiments.consumers --web node_modules/onnxruntime-web --python old/bin/python

Every zoo model of size `tiny` is exported with `--portable`, for both tasks, and causal ones with their decoder. Each
file is run by ONNX Runtime, the reference evaluator of ONNX, OpenVINO if it is installed, onnxruntime-web in node with
`--web`, and the onnxruntime of another Python with `--python`. Errors are relative to the largest logit. A decoder
reads two prompts of different lengths, and then the rest of one text, a token at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

import flashir
from flashir.backends.protocols import Array
from flashir.errors import SettingError
from flashir.experiments.command import count, guarded
from flashir.ir import Graph
from flashir.models.load import model_names
from flashir.reference.compare import relative_error
from flashir.transforms.whole_length import divides_by_length
from flashir_onnx.decoder import STATE
from flashir_onnx.form import OLDEST

Consumer = Callable[[Path], Callable[[Mapping[str, Array]], dict[str, Array]]]
"""The path of a model -> a function from inputs to results, by name."""

SEQ_LEN, LENGTH, STEPS, CAPACITY = 256, 77, 4, 96
PADDING = -1
"""The position of a token that pads a row."""

CAUSAL, BOTH = "lm", "mlm"

RUN_SESSION = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [value.name for value in session.get_outputs()]
np.savez(sys.argv[3], **dict(zip(names, session.run(None, dict(np.load(sys.argv[2]))))))
"""
"""A program for another Python."""

RUN_WEB = """
import { readFileSync, writeFileSync, existsSync } from "node:fs";
const [package_, model, inputs, outputs] = process.argv.slice(2);
const ort = await import(package_ + "/dist/ort.wasm.min.mjs");
ort.env.wasm.numThreads = 1;
const kinds = { int64: BigInt64Array, float32: Float32Array, bool: Uint8Array };
const feeds = {};
for (const [name, { type, dims, bytes }] of Object.entries(JSON.parse(readFileSync(inputs)))) {
  const raw = Buffer.from(bytes, "base64");
  feeds[name] = new ort.Tensor(type, new kinds[type](new Uint8Array(raw).buffer), dims);
}
const data = model.replace(/[^/]*$/, "") + process.argv[6];
const externalData = existsSync(data) && process.argv[6] ? [{ path: process.argv[6], data: readFileSync(data) }] : [];
const session = await ort.InferenceSession.create(readFileSync(model), { externalData });
const results = {};
for (const [name, tensor] of Object.entries(await session.run(feeds))) {
  const bytes = Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength).toString("base64");
  results[name] = { type: tensor.type, dims: tensor.dims, bytes };
}
writeFileSync(outputs, JSON.stringify(results));
"""
"""A program for node."""


def runtime(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The installed ONNX Runtime."""
    from flashir_onnx.runtime import onnxruntime

    session = onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))


def reference(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The reference evaluator of ONNX."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda feed: dict(zip(evaluator.output_names, evaluator.run(None, dict(feed)), strict=True))


def openvino(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """OpenVINO, in float32."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO would send statistics
    from openvino import Core

    compiled = Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        results = compiled(dict(feed))
        return {name: np.array(results[key]) for key in compiled.outputs for name in key.get_names()}

    return run


def of_python(python: str) -> Consumer:
    """The onnxruntime of another Python."""

    def load(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        def run(feed: Mapping[str, Array]) -> dict[str, Array]:
            with TemporaryDirectory() as folder:
                inputs, outputs = Path(folder) / "in.npz", Path(folder) / "out.npz"
                arguments: dict[str, Any] = dict(feed)
                np.savez(inputs, **arguments)
                _called([python, "-c", RUN_SESSION, str(path), str(inputs), str(outputs)])
                with np.load(outputs) as arrays:
                    return dict(arrays)

        return run

    return load


def of_web(package: Path) -> Consumer:
    """onnxruntime-web in node."""

    def load(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        data = next((file.name for file in path.parent.glob("*.data")), "")

        def run(feed: Mapping[str, Array]) -> dict[str, Array]:
            with TemporaryDirectory() as folder:
                program, inputs, outputs = (Path(folder) / name for name in ("run.mjs", "in.json", "out.json"))
                program.write_text(RUN_WEB, encoding="utf-8")
                inputs.write_text(json.dumps({name: _packed(array) for name, array in feed.items()}), encoding="utf-8")
                _called(["node", str(program), str(package.resolve()), str(path), str(inputs), str(outputs), data])
                results = json.loads(outputs.read_text(encoding="utf-8"))
                return {name: _unpacked(tensor) for name, tensor in results.items()}

        return run

    return load


def _called(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return done.stdout


def _packed(array: Array) -> dict[str, Any]:
    bytes_ = b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"type": array.dtype.name, "dims": array.shape, "bytes": bytes_}


def _unpacked(tensor: Mapping[str, Any]) -> Array:
    return np.frombuffer(b64decode(tensor["bytes"]), tensor["type"]).reshape(tensor["dims"])


def model_error(load: Consumer, folder: Path, ids: Array, wanted: Array) -> float:
    """The error of model.onnx."""
    got = load(folder / "model.onnx")({"input_ids": ids})
    return relative_error(got["logits"], wanted)


def decoder_error(load: Consumer, folder: Path, ids: Array, wanted: Array) -> float:
    """The largest error of decoder.onnx: on two prompts of different lengths, padded, and on each token after them."""
    path = folder / "decoder.onnx"
    decoder = load(path)
    metadata = onnx.load(path, load_external_data=False).metadata_props
    states = json.loads(next(entry.value for entry in metadata if entry.key == STATE))
    lengths = np.array([LENGTH - STEPS, LENGTH // 2])
    prompts = np.repeat(ids[:1, : lengths[0]], 2, axis=0)
    positions = np.where(np.arange(lengths[0]) < lengths[:, None], np.arange(lengths[0]), PADDING)
    kept = {
        state["input"]: np.zeros([2 if size == "batch" else size for size in state["shape"]], state["dtype"])
        for state in states
    }
    errors = []
    for number in range(STEPS + 1):
        results = decoder({"input_ids": prompts, "position_ids": positions, **kept})
        errors.append(relative_error(results["logits"][:, -1], wanted[0, lengths + number - 1]))
        kept = {state["input"]: results[state["output"]] for state in states}
        if number < STEPS:
            prompts, positions = ids[0, lengths + number][:, None], (lengths + number)[:, None]
    return max(errors)


def version_of(python: str) -> str:
    """The version of the onnxruntime of a Python."""
    return _called([python, "-c", "import onnxruntime; print(onnxruntime.__version__)"]).strip()


def consumers(web: Path | None, pythons: Sequence[str]) -> dict[str, Consumer]:
    """The runtimes that are here, by name and version."""
    present: dict[str, Consumer] = {
        f"ONNX Runtime {version('onnxruntime')}": runtime,
        f"reference of ONNX {version('onnx')}": reference,
    }
    try:
        present[f"OpenVINO {version('openvino')}"] = openvino
    except PackageNotFoundError:
        print("OpenVINO is not installed: it is left out", file=sys.stderr)
    if web is not None:
        present["onnxruntime-web"] = of_web(web)
    return present | {f"ONNX Runtime {version_of(python)}": of_python(python) for python in pythons}


def cell(error: Callable[[Consumer, Path, Array, Array], float], load: Consumer, *operands: Any) -> str:
    """An error, or what the runtime says if it refuses the model."""
    try:
        return f"{error(load, *operands):.1e}"
    except Exception as refusal:
        return f"refused: {str(refusal).strip().splitlines()[0][:80]}"


def cases(name: str) -> Iterator[tuple[str, Graph]]:
    """A zoo model for both tasks, with each way of summing over chunks if it has several, and what it is called."""
    try:
        for cumsum in ("native", "matmul", "scan"):
            yield f"{name}, {CAUSAL}, {cumsum}", flashir.model(name, size="tiny", task=CAUSAL, cumsum=cumsum)
    except SettingError:  # it sums nothing over chunks
        yield f"{name}, {CAUSAL}", flashir.model(name, size="tiny", task=CAUSAL)
    yield f"{name}, {BOTH}", flashir.model(name, size="tiny", task=BOTH)


def rows(name: str, present: Mapping[str, Consumer], opset: int, folder: Path) -> Iterator[str]:
    """Export each case of a zoo model, and yield a row of errors for its model and its decoder."""
    ids = np.random.default_rng(0).integers(0, 256, (2, LENGTH))
    for number, (what, model) in enumerate(cases(name)):
        out = folder / f"{name}-{number}"
        causal = CAUSAL in what.split(", ")
        length = LENGTH if causal and divides_by_length(model) else None
        decoder: dict[str, Any] = {"decode": True, "max_len": CAPACITY, "length": length} if causal else {}
        exported = flashir.export(model, out, portable=True, opset=opset, seq_len=SEQ_LEN, **decoder)
        wanted = flashir.interpret(exported.plan.graph, flashir.init(exported.plan.graph), ids)[0]
        yield _line(what, (cell(model_error, load, out, ids, wanted) for load in present.values()))
        if causal:
            errors = (cell(decoder_error, load, out, ids, wanted) for load in present.values())
            yield _line(f"{what}, decoder", errors)


def _line(first: str, cells: Any) -> str:
    return f"| {' | '.join([first, *cells])} |"


def main() -> None:
    """The command line."""
    names = sorted(model_names())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=names, choices=names)
    parser.add_argument("--opset", type=count, default=OLDEST)
    parser.add_argument("--web", type=Path, metavar="FOLDER", help="the folder of the package onnxruntime-web")
    parser.add_argument("--python", nargs="+", default=[], metavar="PATH", help="Pythons with other onnxruntimes")
    args = parser.parse_args()
    present = consumers(args.web, args.python)
    print(_line("model", present))
    print(_line("---", ["---"] * len(present)))
    with TemporaryDirectory() as folder:
        for name in args.models:
            for row in rows(name, present, args.opset, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    guarded(main)
