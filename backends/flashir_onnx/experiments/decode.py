"""A decoder step at several positions of a sequence: time, memory, and the bound of reading the weights.

    flashir export flash --size base --split -o flash/
    flashir export transformer++ --size base --split --max-len 16448 -o transformer/
    python -m flashir_onnx.experiments.decode flash/ transformer/ --positions 1024 16384 131072
    python -m flashir_onnx.experiments.decode flash/ --prompt 16384 --rounds 3

Runs each step.onnx like a host program, with onnxruntime and NumPy. Every case has its own process, and cases take
turns. States have the size and position after that many tokens, and hold zeros: the time of a step does not depend on
their values. Positions beyond the size of a cache are left out.

The floor is the bytes of the weights that a step multiplies with, over the bandwidth of the target. Bare is one row
times float32 matrices of the same number of bytes, in the same runtime, and takes turns with the others. With
`--prompt`, prefill.onnx is timed against model.onnx on a prompt of that length.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from flashir.bench.interleaved import Samples, interleaved
from flashir.machine.peak_memory import resident_memory
from flashir.machine.targets import target

PRODUCTS = frozenset(("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits"))
BARE = -1
ROWS, COLUMNS = 1024, 3072  # of a bare matrix


@dataclass
class Case:
    """A process that makes one step per request; `position` BARE runs only the products."""

    folder: Path
    position: int
    ms: list[float] = field(default_factory=list)
    resident: int = 0

    def __post_init__(self) -> None:
        task = [str(self.folder), "--positions", str(self.position), "--serve"]
        command = [sys.executable, "-m", "flashir_onnx.experiments.decode", *task]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> None:
        """Make a step. Raises ValueError if the process has ended; it has printed the reason."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        ms, self.resident = json.loads(self._process.stdout.readline())
        self.ms.append(ms)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def measure(folders: Sequence[Path], positions: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """A row for each folder and possible position, with `ms`, `resident_bytes`, `floor_ms`, `bare_ms`."""
    cases = [Case(folder, at) for folder in folders for at in (*positions, BARE) if at < room(folder)]
    try:
        for case in cases:
            case.step()
            case.ms.clear()
        for _ in range(rounds):
            for case in cases:
                case.step()
    finally:
        for case in cases:
            case.end()
    bandwidth = target("onnx:cpu").bandwidth
    bare_ms = {case.folder: median(case.ms) for case in cases if case.position == BARE}
    return [
        {
            "model": str(case.folder),
            "position": case.position,
            "ms": median(case.ms),
            "resident_bytes": case.resident,
            "weight_bytes": weight_bytes(case.folder),
            "floor_ms": 1e3 * weight_bytes(case.folder) / bandwidth,
            "bare_ms": bare_ms[case.folder],
        }
        for case in cases
        if case.position != BARE
    ]


def prompts(folder: Path, tokens: int, rounds: int) -> dict[str, Samples]:
    """Interleaved times of `forward` (model.onnx) and `prefill` on one prompt of random tokens."""
    forward, prefill = (_session(str(folder / name)) for name in ("model.onnx", "prefill.onnx"))
    ids = np.random.default_rng(0).integers(0, int(_metadata(folder)["flashir.vocab"]), (1, tokens))
    row = {"input_ids": ids}
    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: forward.run(None, row),
        "prefill": lambda: prefill.run(None, {**row, "lengths": np.full(1, tokens)}),
    }
    return interleaved(runs, rounds)


def room(folder: Path) -> float:
    """The longest sequence in tokens."""
    return float(_metadata(folder).get("flashir.max_len", "inf"))


def weight_bytes(folder: Path) -> int:
    """The bytes of the weights that are operands of products in a step."""
    graph = onnx.load(str(folder / "step.onnx"), load_external_data=False).graph
    used = {name for node in graph.node if node.op_type in PRODUCTS for name in node.input}
    return sum(_bytes(stored) for stored in graph.initializer if stored.name in used)


def _bytes(stored: onnx.TensorProto) -> int:
    return int(np.prod(stored.dims)) * onnx.helper.tensor_dtype_to_np_dtype(stored.data_type).itemsize


def _metadata(folder: Path) -> dict[str, str]:
    model = onnx.load(str(folder / "step.onnx"), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def serve(step: Callable[[], object]) -> None:
    """Answer every line with the milliseconds of a step and the memory after it."""
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(json.dumps([1e3 * (time.perf_counter() - start), resident_memory()]), flush=True)


def stepping(folder: Path, position: int) -> Callable[[], object]:
    """A function that makes a step of one row, with its states updated in place."""
    session = _session(str(folder / "step.onnx"))
    binding = session.io_binding()
    binding.bind_cpu_input("input_ids", np.zeros(1, np.int64))
    binding.bind_output("logits")
    for state in json.loads(_metadata(folder)["flashir.state"]):
        shape = [1 if size == "batch" else size for size in state["shape"]]
        value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(state["dtype"]).type)
        value.update_inplace(np.full(shape, position if state["input"] == "position" else 0, state["dtype"]))
        binding.bind_ortvalue_input(state["input"], value)
        if state["input"] == "position":  # not updated, so that every step has the same position
            binding.bind_output(state["output"])
        else:
            binding.bind_ortvalue_output(state["output"], value)
    return lambda: session.run_with_iobinding(binding)


def bare(folder: Path) -> Callable[[], object]:
    """A function that multiplies one row with matrices of as many bytes as the weights of a step."""
    count = round(weight_bytes(folder) / (4 * ROWS * COLUMNS))
    random = np.random.default_rng(0)
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    weights = [random.standard_normal((ROWS, COLUMNS), np.float32) for _ in range(count)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(count)],
        "bare",
        [helper.make_tensor_value_info("x", numbers, [1, ROWS])],
        [helper.make_tensor_value_info(f"y{i}", numbers, [1, COLUMNS]) for i in range(count)],
        [onnx.numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = _session(model.SerializeToString())
    row = {"x": random.standard_normal((1, ROWS), np.float32)}
    return lambda: session.run(None, row)


def _session(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle sessions must not occupy cores
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--positions", nargs="+", type=int, default=[1024, 16384, 131072])
    parser.add_argument("--prompt", type=int, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        (folder,), (position,) = args.folders, args.positions
        return serve(bare(folder) if position == BARE else stepping(folder, position))
    if args.prompt:
        for folder in args.folders:
            samples = prompts(folder, args.prompt, args.rounds)
            ratio, ms = (
                samples["prefill"].ratio(samples["forward"]),
                {name: times.median for name, times in samples.items()},
            )
            print(json.dumps({"model": str(folder), "tokens": args.prompt, **ms, "ratio": ratio}))
        return None
    rows = measure(args.folders, args.positions, args.rounds)
    if args.json:
        print(json.dumps(rows))
        return None
    for row in rows:
        share, of_bare = row["floor_ms"] / row["ms"], row["bare_ms"] / row["ms"]
        print(
            f"{row['model']:24} at {row['position']:7,}  {row['ms']:7.2f} ms  {1e3 / row['ms']:6.1f} tokens/s  "
            f"{row['resident_bytes'] / 2**20:6.0f} MiB resident  {share:4.0%} of the floor  {of_bare:4.0%} of bare"
        )
    return None


if __name__ == "__main__":
    main()
