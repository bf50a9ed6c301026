"""Weights in 8 or 4 bits, in the pattern that OpenVINO computes with as it is, and weights in float16.

    Transpose(Reshape(Multiply(Convert(blocks [n, b, block]), scales [n, b, 1]), [n, k]))

stands for a matrix [k, n] of a product; a table of rows [n, k] has no Transpose. The plug-in for processors gives
blocks and scales to the product or the lookup itself. The numbers are those of ONNX models (`flashir_onnx.blocks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flashir_onnx.blocks import BLOCKS, NIBBLE, Blocks, unpacked
from flashir_onnx.emit import Emitted
from flashir_onnx.quantise import Once, matrices, quantiser, sensitive

if TYPE_CHECKING:
    from openvino import Model, Output

BITS = {"int8": 8, "int4": NIBBLE}
KINDS = (*BITS, "float16")
STORED, SCALES = "/blocks", "/scales"
"""What follows the name of a weight in the names of its constants."""


@dataclass(frozen=True)
class Matrix:
    """A weight in blocks along its rows; `is_table` says that the rows are those of the weight, not its columns."""

    blocks: Blocks
    is_table: bool


class Narrow:
    """Quantises emitted models. Those that share weights also share the quantised ones.

    Args:
        kind: one of `KINDS`.
    """

    def __init__(self, kind: str) -> None:
        self._bits = BITS.get(kind, 0)
        self._halves = None if self._bits else quantiser(kind, runtime_ops=False)
        self._once = Once()

    def __call__(self, emitted: Emitted) -> tuple[Emitted, Mapping[str, Matrix]]:
        """The model, and its weights in blocks by name. Raises SettingError if there is no weight to quantise."""
        if self._halves is not None:
            return self._halves(emitted), {}
        usable = matrices(emitted.model, emitted.weights, transposed=True)
        eight, narrow = sensitive(emitted.model, usable), {}
        for name, is_table in usable.items():
            array, _ = emitted.weights.initializers[name]
            quantised = partial(_in_blocks, bits=8 if name in eight else self._bits)
            narrow[name] = Matrix(self._once(quantised, array if is_table else array.T), is_table)
        return emitted, narrow


def _in_blocks(rows: npt.NDArray[Any], bits: int) -> Blocks:
    """Rows in blocks without padding, which the pattern cannot have. Half bytes come in pairs."""
    length = rows.shape[1]
    whole = [block for block in BLOCKS if length % block == 0] or [length]
    return Blocks.of(rows, 8 if whole[0] % 2 else bits, whole)


def blocks_as_floats(name: str, matrix: Matrix) -> Output:
    """The pattern that stands for a weight."""
    from openvino import op
    from openvino import opset13 as ops

    blocks = matrix.blocks
    stored = _constant(blocks)
    scales = op.Constant(np.ascontiguousarray(blocks.scales[..., None]))
    for constant, end in ((stored, STORED), (scales, SCALES)):
        constant.set_friendly_name(name + end)
    floats = ops.multiply(ops.convert(stored, np.float32), scales)
    result = ops.reshape(floats, op.Constant(np.array([len(blocks.stored), blocks.k])), False)
    if not matrix.is_table:
        result = ops.transpose(result, op.Constant(np.array([1, 0])))
    result.set_friendly_name(name)
    return result.output(0)


def _constant(blocks: Blocks) -> Any:
    """The numbers as int8 or int4, which have no middle to subtract."""
    from openvino import Shape, Tensor, Type, op

    signed = _signs_changed(blocks.stored, blocks.bits)
    if blocks.bits != NIBBLE:
        return op.Constant(signed.view(np.int8))
    tensor = Tensor(Type.i4, Shape([*blocks.scales.shape, blocks.block]))
    tensor.data.reshape(-1)[:] = signed.reshape(-1).view(tensor.data.dtype)
    return op.Constant(tensor)


def floats_of(model: Model) -> dict[str, npt.NDArray[np.float32]]:
    """The weights that a model has in blocks, as the floats that they stand for."""
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    arrays = {}
    for stored_name in (name for name in nodes if name.endswith(STORED)):
        name = stored_name.removesuffix(STORED)
        scales = nodes[name + SCALES].data[..., 0]
        bits = NIBBLE if nodes[stored_name].get_element_type().get_type_name() == "i4" else 8
        stored = nodes[stored_name].data.reshape(*scales.shape, -1).view(np.uint8)
        rows = unpacked(_signs_changed(stored, bits), scales, bits).reshape(len(scales), -1)
        arrays[name] = rows.T if nodes[name].get_type_name() == "Transpose" else rows
    return arrays


def _signs_changed(stored: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Numbers with a middle of 2^(bits - 1) as signed ones, and back."""
    return stored ^ np.uint8(0x88 if bits == NIBBLE else 0x80)
