"""A decoder step at several positions of a sequence: time, memory, and the bound of reading the weights.

    flashir export flash --size base --split -o flash/
    flashir export transformer++ --size base --split --max-len 16448 -o transformer/
    python -m flashir_onnx.experiments.decode flash/ transformer/ --positions 1024 16384 131072
    python -m flashir_onnx.experiments.decode portable/ --runtime openvino openvino-bf16
    python -m flashir_onnx.experiments.decode flash/ --prompt 16384 --rounds 3

Runs each step.onnx, or decoder.onnx with one token, like a host program, with onnxruntime or OpenVINO. Every case has
its own process, and cases take turns. States have the size and position after that many tokens, and hold zeros: the
time of a step does not depend on their values. Positions beyond the size of a cache are left out. OpenVINO reads
portable exports; its states go back and forth between two requests.

The floor is the bytes of the weights that a step multiplies with, over the bandwidth of the target. Bare is one row
times each of these matrices alone, as they are stored, in the same runtime, and takes turns with the others. A chunk
closes at a position such as 255: `--positions 255 256`. With `--prompt`, prefill.onnx is timed against model.onnx on a
prompt of that length. With `--busy`, each case has one thread, and its processor time is told instead of the time on
the clock: for a machine that does other work, whose memory the cases then share with it.
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
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from flashir.backends.protocols import Array
from flashir.bench.interleaved import Samples, interleaved
from flashir.machine.peak_memory import resident_memory
from flashir.machine.targets import target

PRODUCTS = frozenset(("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits"))
WIDENS = frozenset(("DequantizeLinear", "Cast"))
"""What may stand between a stored weight and a product."""
BARE = -1
RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")


@dataclass
class Case:
    """A process that makes one step per request; `position` BARE runs only the products."""

    folder: Path
    position: int
    runtime: str = RUNTIMES[0]
    busy: bool = False
    ms: list[float] = field(default_factory=list)
    resident: int = 0

    def __post_init__(self) -> None:
        task = [str(self.folder), "--positions", str(self.position), "--runtime", self.runtime, "--serve"]
        task += ["--busy"] * self.busy
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


def measure(
    folders: Sequence[Path], positions: Sequence[int], rounds: int, runtimes: Sequence[str], busy: bool
) -> list[dict[str, Any]]:
    """A row for each folder, runtime and possible position: `ms`, `resident_bytes`, `floor_ms`, `bare_ms`."""
    cases = [
        Case(folder, at, runtime, busy)
        for folder in folders
        for runtime in runtimes
        for at in (*positions, BARE)
        if at < room(folder)
    ]
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
    bare_ms = {(case.folder, case.runtime): quiet(case.ms) for case in cases if case.position == BARE}
    return [
        {
            "model": str(case.folder),
            "runtime": case.runtime,
            "position": case.position,
            "ms": quiet(case.ms),
            "resident_bytes": case.resident,
            "weight_bytes": weight_bytes(case.folder),
            "floor_ms": 1e3 * weight_bytes(case.folder) / bandwidth,
            "bare_ms": bare_ms[case.folder, case.runtime],
        }
        for case in cases
        if case.position != BARE
    ]


def quiet(times: Sequence[float]) -> float:
    """The lower quartile, which other work on the machine disturbs less than the median."""
    return sorted(times)[len(times) // 4]


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


def step_file(folder: Path) -> Path:
    """The file for one more token."""
    return next(path for name in ("step.onnx", "decoder.onnx") if (path := folder / name).exists())


def weight_bytes(folder: Path) -> int:
    """The bytes of the weights that are operands of products in a step."""
    graph = products(folder).graph
    return sum(int(np.prod(stored.dims)) * _itemsize(stored) for stored in graph.initializer)


def _itemsize(stored: onnx.TensorProto) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(stored.data_type).itemsize)


def products(folder: Path) -> onnx.ModelProto:
    """The products of a step with stored weights, each by itself, with a row of the right length as its input."""
    whole = onnx.load(str(step_file(folder)), load_external_data=False)
    stored = {tensor.name: tensor for tensor in whole.graph.initializer}
    widened = {node.output[0]: node for node in whole.graph.node if node.op_type in WIDENS and node.input[0] in stored}
    graph, used = onnx.GraphProto(name="bare"), set()
    rows: dict[int, str] = {}
    for node in whole.graph.node:
        weight = node.input[1] if node.op_type in PRODUCTS else ""
        if weight not in stored and weight not in widened:
            continue
        matrix = widened[weight].input[0] if weight in widened else weight
        attrs = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        width = attrs.get("K") or stored[matrix].dims[1 if attrs.get("transB") else 0]
        alone = graph.node.add()
        alone.CopyFrom(node)
        scales = [name for name in node.input[2:3] if node.op_type == "MatMulNBits"]
        alone.input[:] = [rows.setdefault(width, f"row_of_{width}"), weight, *scales]
        used |= {weight, *scales}
        graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
    wide = [widened[name] for name in used & widened.keys()]
    nodes = [*wide, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    used |= {name for node in wide for name in node.input}
    graph.initializer.extend(tensor for name, tensor in stored.items() if name in used)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width]) for width, name in rows.items()
    )
    return onnx.helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)


def _metadata(folder: Path) -> dict[str, str]:
    model = onnx.load(str(step_file(folder)), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def serve(step: Callable[[], object], clock: Callable[[], float]) -> None:
    """Answer every line with the milliseconds of a step and the memory after it."""
    for _ in sys.stdin:
        start = clock()
        step()
        print(json.dumps([1e3 * (clock() - start), resident_memory()]), flush=True)


def inputs(folder: Path, position: int) -> tuple[dict[str, Array], dict[str, tuple[str, Array]]]:
    """Tokens by input; and states, as many as after so many tokens, by input with the name of their output."""
    split = step_file(folder).name == "step.onnx"
    tokens = {"input_ids": np.zeros(1 if split else (1, 1), np.int64)}
    tokens |= {} if split else {"position_ids": np.full((1, 1), position)}
    states = {}
    for state in json.loads(_metadata(folder)["flashir.state"]):
        shape = [1 if size == "batch" else size for size in state["shape"]]
        filled = np.full(shape, position if state["input"] == "position" else 0, state["dtype"])
        states[state["input"]] = state["output"], filled
    return tokens, states


def stepping(folder: Path, position: int, threads: int) -> Callable[[], object]:
    """A function that makes a step of one row in ONNX Runtime, with its states updated in place."""
    session = _session(str(step_file(folder)), threads=threads)
    binding = session.io_binding()
    tokens, states = inputs(folder, position)
    for name, array in tokens.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("logits")
    for name, (output, array) in states.items():
        value = ort.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(name, value)
        if name == "position":  # not updated, so that every step has the same position
            binding.bind_output(output)
        else:
            binding.bind_ortvalue_output(output, value)
    return lambda: (tokens, session.run_with_iobinding(binding))


def bare(folder: Path, threads: int) -> Callable[[], object]:
    """A function that multiplies a row with each matrix of a step in ONNX Runtime."""
    model = products(folder)
    rows = {value.name: _row(value) for value in model.graph.input}
    names = [value.name for value in model.graph.output]
    session = _session(model.SerializeToString(), folder, threads)
    return lambda: session.run(names, rows)


def _row(value: onnx.ValueInfoProto) -> Array:
    return np.ones([size.dim_value for size in value.type.tensor_type.shape.dim], np.float32)


def openvino(folder: Path, position: int, narrow: bool, threads: int) -> Callable[[], object]:
    """A function that makes a step in OpenVINO, or multiplies with each matrix alone (`position` BARE)."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO would send statistics
    from openvino import Core, Tensor

    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if narrow else "f32", "PERFORMANCE_HINT": "LATENCY"}
    options |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
    if position == BARE:
        path = folder / "bare.onnx"
        onnx.save(products(folder), str(path))
    else:
        path = step_file(folder)
    model = Core().compile_model(str(path), "CPU", options)
    if position == BARE:
        path.unlink()
        rows = {port.get_any_name(): np.ones(tuple(port.shape), np.float32) for port in model.inputs}
        request = model.create_infer_request()
        return lambda: request.infer(rows, share_inputs=True)
    tokens, states = inputs(folder, position)
    requests = [model.create_infer_request() for _ in range(2)]
    kept = {name: (output, Tensor(array)) for name, (output, array) in states.items()}
    for request in requests:
        for name, array in tokens.items():
            request.set_tensor(name, Tensor(array))
    state = {name: tensor for name, (_, tensor) in kept.items()}

    def step() -> None:
        request = requests[0]
        for name, tensor in state.items():
            request.set_tensor(name, tensor)
        request.infer()
        for name, (output, _) in kept.items():
            if name != "position":
                state[name] = request.get_tensor(output)
        requests.reverse()

    return step


def served(folder: Path, position: int, runtime: str, threads: int) -> Callable[[], object]:
    """What one process runs."""
    if runtime != RUNTIMES[0]:
        return openvino(folder, position, runtime.endswith("bf16"), threads)
    return bare(folder, threads) if position == BARE else stepping(folder, position, threads)


def _session(model: str | bytes, folder: Path | None = None, threads: int = 0) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle sessions must not occupy cores
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--positions", nargs="+", type=int, default=[1024, 16384, 131072])
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=RUNTIMES[:1])
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--prompt", type=int, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        (folder,), (position,), (runtime,) = args.folders, args.positions, args.runtime
        clock = time.process_time if args.busy else time.perf_counter
        return serve(served(folder, position, runtime, int(args.busy)), clock)
    if args.prompt:
        for folder in args.folders:
            samples = prompts(folder, args.prompt, args.rounds)
            ratio, ms = (
                samples["prefill"].ratio(samples["forward"]),
                {name: times.median for name, times in samples.items()},
            )
            print(json.dumps({"model": str(folder), "tokens": args.prompt, **ms, "ratio": ratio}))
        return None
    rows = measure(args.folders, args.positions, args.rounds, args.runtime, args.busy)
    if args.json:
        print(json.dumps(rows))
        return None
    for row in rows:
        share, of_bare = row["floor_ms"] / row["ms"], row["bare_ms"] / row["ms"]
        print(
            f"{row['model']:24} {row['runtime']:13} at {row['position']:7,}  {row['ms']:7.2f} ms  "
            f"{1e3 / row['ms']:6.1f} tokens/s  "
            f"{row['resident_bytes'] / 2**20:6.0f} MiB resident  {share:4.0%} of the floor  {of_bare:4.0%} of bare"
        )
    return None


if __name__ == "__main__":
    main()
