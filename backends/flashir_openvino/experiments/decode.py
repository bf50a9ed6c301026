"""One more token of a decoder in OpenVINO: its time, that of its products alone, and the bound of reading the weights.

    flashir export flash --size base --task lm --target openvino:cpu --decode -o f32/       # and --quantize int8, int4
    python -m flashir_openvino.experiments.decode f32/ int8/ int4/ --positions 1024 131072
    python -m flashir_openvino.experiments.decode f32/ --hint bf16

All cases take turns in one process. States have the position after that many tokens, and hold zeros. The products are
one row times each stored matrix. `python -m flashir_onnx.experiments.decode` does the same for ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from openvino import Model, Node, Tensor
from openvino import opset13 as ops

from flashir.bench.interleaved import interleaved
from flashir.errors import ArtefactError
from flashir.experiments.command import count, guarded
from flashir.files.foreign import parse_json
from flashir.ir import DType
from flashir.machine.targets import target
from flashir_onnx.decoder import STATE
from flashir_openvino.artefact import DECODER_FILE, read, verify
from flashir_openvino.continuing import continued
from flashir_openvino.decoder import FIRST
from flashir_openvino.runtime import DATA_FILE, MODEL_FILE
from flashir_openvino.session import compiled

DEVICE = "cpu"
HINTS = {"f32": DType.F32, "bf16": DType.BF16}


@dataclass(frozen=True)
class Row:
    """The milliseconds of a token at a position, of the products alone, and of reading the weights at the bandwidth."""

    folder: str
    hint: str
    position: int
    ms: float
    products_ms: float
    floor_ms: float


def measure(folders: Sequence[Path], positions: Sequence[int], hint: str, rounds: int) -> list[Row]:
    """A row for each folder and position. Raises ArtefactError."""
    calls: dict[tuple[Path, int | None], Callable[[], object]] = {}
    weights = {}
    for folder in folders:
        verify(folder / MODEL_FILE)
        calls[folder, None], weights[folder] = _products(_decoder(folder)[0], HINTS[hint])
        calls |= {(folder, position): _token(folder, position, HINTS[hint]) for position in positions}
    ms = {case: samples.quartiles[0] for case, samples in interleaved(calls, rounds).items()}
    bandwidth = target("onnx:cpu").bandwidth
    return [
        Row(str(folder), hint, at, ms[folder, at], ms[folder, None], 1e3 * weights[folder] / bandwidth)
        for folder in folders
        for at in positions
    ]


def _decoder(folder: Path) -> tuple[Model, list[str]]:
    """The model of decoder.xml, and the names of its states."""
    part = read(folder / DECODER_FILE, folder / DATA_FILE)
    text, damaged = part.metadata[STATE], "its metadata are damaged"
    states = parse_json(text, folder / DECODER_FILE, ArtefactError, list[dict[str, Any]], problem=damaged)
    return part.model, [str(state["input"]) for state in states]


def _token(folder: Path, position: int, dtype: DType) -> Callable[[], object]:
    """A function that reads one more token, always at this position."""
    model, states = _decoder(folder)
    function = continued(model, [*FIRST[DECODER_FILE], *states], partial(compiled, device=DEVICE, dtype=dtype))
    arrays = [np.array([[1]]), np.array([[position]])]
    kept: list[Sequence[Any]] = [()]

    def run() -> None:
        _, kept[0] = function(arrays, kept[0])

    return run


def _products(model: Model, dtype: DType) -> tuple[Callable[[], object], int]:
    """A function that multiplies a row with each stored matrix of a model; and the bytes of these matrices."""
    rows, results, size = [], [], 0
    for node in model.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        sources = _sources(node.input_value(1).get_node())
        if any(source.get_type_name() == "Parameter" for source in sources):
            continue
        width = node.input(0).get_partial_shape()[-1].get_length()
        row = ops.parameter([1, width], np.float32)
        turned = bool(node.get_attributes().get("transpose_b"))
        rows.append(row)
        results.append(ops.result(ops.matmul(row, node.input_value(1), False, turned)))
        size += sum(s.get_byte_size() for s in sources if s.get_type_name() == "Constant")
    products = compiled(Model(results, rows), DEVICE, dtype)
    request = products.create_infer_request()
    for place, port in enumerate(products.inputs):
        request.set_input_tensor(place, Tensor(np.ones(tuple(port.shape), np.float32)))
    return request.infer, size


def _sources(node: Node) -> list[Any]:
    """A node and all nodes that it is computed from."""
    known, left = {}, [node]
    while left:
        other = left.pop()
        if other.get_friendly_name() not in known:
            known[other.get_friendly_name()] = other
            left += [value.get_node() for value in other.input_values()]
    return list(known.values())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--positions", nargs="+", type=count, default=[1024, 131072])
    parser.add_argument("--hint", choices=tuple(HINTS), default="f32")
    parser.add_argument("--rounds", type=count, default=25)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args.folders, args.positions, args.hint, args.rounds)
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        print(
            f"{row.folder:24} {row.hint:4} at {row.position:7,}  {row.ms:7.2f} ms  {1e3 / row.ms:6.1f} tokens/s  "
            f"products {row.products_ms:6.2f} ms ({row.products_ms / row.ms:4.0%})  "
            f"floor {row.floor_ms:6.2f} ms ({row.floor_ms / row.ms:4.0%})"
        )


if __name__ == "__main__":
    guarded(main)
