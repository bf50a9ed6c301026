"""Lowered graph -> portable ONNX -> a model of OpenVINO, with weights that are not copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from flashir.errors import TargetError
from flashir.ir import DType, Graph
from flashir.transforms.canonicalise import Canonicalise
from flashir.transforms.hoist import Hoist
from flashir.transforms.lower import Lower
from flashir.transforms.pipeline import Pipeline
from flashir_onnx import OnnxBackend
from flashir_onnx.emit import Emitted, emit
from flashir_onnx.form import Form
from flashir_openvino.emitters import EMITTERS, claims, is_fused
from flashir_openvino.narrow_weights import Matrix, Narrow, blocks_as_floats
from flashir_openvino.precision import compute_type, marked, widened
from flashir_openvino.runtime import core, reason, serialised

if TYPE_CHECKING:
    from openvino import Model, Output

FORM = Form(portable=True)
WRITTEN = OnnxBackend(form=FORM).claims
PARTS = Pipeline(
    (Lower("openvino", lambda node: not is_fused(node) and (claims(node) or WRITTEN(node))), Hoist(), Canonicalise()),
    check=False,
)
"""Decomposes what is claimed only because OpenVINO fuses it."""


def read(
    graph: Graph,
    params: Mapping[str, npt.NDArray[Any]],
    results: Sequence[str] = (),
    narrow: Narrow | None = None,
    *,
    inputs: Sequence[str] = (),
) -> Model:
    """The model of a lowered graph. The arrays of its weights must not change while it is in use.

    Args:
        graph: the graph, lowered for OpenVINO.
        params: parameters by full name.
        results: the names of several results; empty for the default names.
        narrow: what quantises the weights; None for the types of the graph.
        inputs: the names of the first inputs; empty for the default names.

    Raises:
        TargetError: OpenVINO does not read the model.
        ParameterError: a parameter does not fit its dtype.
        SettingError: there is no weight to quantise.
    """
    emitted = emit(widened(PARTS.run(graph)), params, results, inputs=inputs, form=FORM, own=EMITTERS)
    emitted, matrices = (emitted, {}) if narrow is None else narrow(emitted)
    try:
        model = core().read_model(_with_inputs_for_weights(emitted).SerializeToString())
        if compute_type(graph) is not DType.F32:
            model = _marked(model)
    except RuntimeError as error:
        raise TargetError(f"OpenVINO does not read the model: {reason(error)}", where="openvino") from error
    _place_weights(model, emitted, matrices)
    return model


def distinct(graph: Graph) -> list[str]:
    """Names for the results of a graph that differ from those of its inputs."""
    return [f"result_{number}" for number in range(len(graph.outputs))]


def _marked(model: Model) -> Model:
    """The model with marks on what stays in float32. Marks can be set in its XML only."""
    from openvino import Tensor

    with TemporaryDirectory() as folder:
        xml, data = serialised(model, Path(folder))
        weights = np.frombuffer(data.read_bytes(), np.uint8)
        return core().read_model(marked(xml.read_text(encoding="utf-8")).encode(), Tensor(weights))


def _with_inputs_for_weights(emitted: Emitted) -> ModelProto:
    """A copy of the ONNX model in which large weights are inputs, so that they need not be serialised."""
    large = set(emitted.weights.large())
    model = ModelProto()
    model.CopyFrom(emitted.model)
    kept = []
    for tensor in model.graph.initializer:
        if tensor.name in large:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(info)
        else:
            kept.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _place_weights(model: Model, emitted: Emitted, matrices: Mapping[str, Matrix]) -> None:
    """Replace the inputs for weights by constants, or by what stands for weights in blocks."""
    large = set(emitted.weights.large())
    for parameter in model.get_parameters():
        name = parameter.get_friendly_name()
        if name in large:
            weight = blocks_as_floats(name, matrices[name]) if name in matrices else _constant(name, emitted)
            for reader in parameter.output(0).get_target_inputs():
                reader.replace_source_output(weight)
            model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()


def _constant(name: str, emitted: Emitted) -> Output:
    """A weight in the memory of its array, or of a copy if that is read-only."""
    from openvino import op

    constant = op.Constant(np.require(emitted.weights.array(name), requirements=["C", "W"]), shared_memory=True)
    constant.set_friendly_name(name)
    return constant.output(0)
