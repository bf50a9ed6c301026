"""Compiled models of OpenVINO as functions on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.backends.protocols import Array, Params
from flashir.errors import InputError, TargetError
from flashir.ir import DType, Graph
from flashir.reference.interpreter import interpret
from flashir_onnx.emit import interface_names
from flashir_openvino.precision import hint
from flashir_openvino.runtime import core, device_names, reason

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest, Model


PLAIN = {"SNIPPETS_MODE": "DISABLE"}
"""Without snippets. They fuse attention by softmax to one kernel; elsewhere they choose layouts that need reorders."""


def compiled(model: Model, device: str, dtype: DType) -> CompiledModel:
    """Compile a float32 model for a device, to compute in a type.

    Raises:
        TargetError: the device is not available, has no such type, or OpenVINO refuses the model.
    """
    if device not in device_names():
        raise TargetError(f"OpenVINO has no device {device!r} here", hint="choose one that `flashir targets` lists")
    config = {"INFERENCE_PRECISION_HINT": hint(dtype, device), "PERFORMANCE_HINT": "LATENCY"}
    if device == "cpu" and not any(op.get_type_name() == "Softmax" for op in model.get_ops()):
        config |= PLAIN
    try:
        return core().compile_model(model, device.upper(), config)
    except RuntimeError as error:
        problem = f"OpenVINO does not compile the model: {reason(error)}"
        raise TargetError(problem, where=f"openvino:{device}") from error


Port = tuple[str, np.dtype[Any] | None]
"""The name of an input and its dtype; None if OpenVINO has removed the input because nothing reads it."""


def ports(model: CompiledModel, names: Sequence[str]) -> list[Port]:
    """The inputs of these names in the compiled model."""
    dtypes = {name: port.element_type.to_dtype() for port in model.inputs for name in port.get_names()}
    return [(name, dtypes.get(name)) for name in names]


def input_names(graph: Graph) -> list[str]:
    """The names of the inputs of a graph, in order."""
    names = interface_names(graph)
    return [names[value] for value in graph.inputs]


Sizes = tuple[tuple[int, ...], ...]
"""The shape of each input."""
MOST_FIXED = 4
"""For the first shapes that it meets, a session has a model each."""


class Session:
    """A compiled model of a graph. Arrays in the order of its inputs -> its single result.

    For the first shapes of its inputs, the model is compiled once more for each alone, which takes about as long as a
    run. OpenVINO then computes positions and masks at compile time, and infers no shapes in a run. Inputs of one shape
    always meet the same model, so equal inputs give equal bits.
    """

    def __init__(self, model: Model, graph: Graph, device: str, dtype: DType) -> None:
        self._model, self._device, self._dtype = model, device, dtype
        general = compiled(model, device, dtype)
        self._request = general.create_infer_request()
        self._inputs = ports(general, input_names(graph))
        self._results = len(general.outputs)
        self._is_fresh = True
        self._fixed: dict[Sizes, InferRequest] = {}

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Run once. Raises the errors of `outputs`, and TargetError if the model has several results."""
        results = self.outputs(arrays)
        if len(results) != 1:
            raise TargetError(f"the model has {len(results)} results, wanted one", where="openvino")
        return results[0]

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run once, and return every result.

        Raises:
            InputError: inputs are missing, of a wrong dtype, or of a wrong shape.
            TargetError: OpenVINO fails.
        """
        if len(arrays) != len(self._inputs):
            names = ", ".join(name for name, _ in self._inputs)
            raise InputError(f"the model takes {len(self._inputs)} inputs ({names}), got {len(arrays)}")
        feed = converted(self._inputs, arrays)
        sizes = self._sizes(feed)
        if sizes in self._fixed:
            return self._into_own_memory(self._fixed[sizes], feed)
        if self._is_fresh:
            prepare(self._request, feed)
            self._is_fresh = False
        with_errors(lambda: self._request.infer(feed, share_inputs=True))
        return tuple(np.array(self._request.get_output_tensor(place).data) for place in range(self._results))

    def _sizes(self, feed: Mapping[str, Array]) -> Sizes:
        """The shapes of the inputs. If they are among the first, there is a model for them afterwards."""
        sizes = tuple(array.shape for array in feed.values())
        if sizes not in self._fixed and len(self._fixed) < MOST_FIXED and all(map(prod, sizes)):
            model = self._model.clone()
            with_errors(lambda: model.reshape({name: array.shape for name, array in feed.items()}))
            self._fixed[sizes] = compiled(model, self._device, self._dtype).create_infer_request()
        return sizes

    def _into_own_memory(self, request: InferRequest, feed: Mapping[str, Array]) -> tuple[Array, ...]:
        """The results, which OpenVINO writes into new arrays, since it knows their shapes before."""
        from openvino import Tensor

        ports = request.get_compiled_model().outputs
        results = tuple(np.empty(tuple(port.shape), port.element_type.to_dtype()) for port in ports)
        for place, array in enumerate(results):
            request.set_output_tensor(place, Tensor(array, shared_memory=True))
        with_errors(lambda: request.infer(feed, share_inputs=True))
        return results


def prepare(request: InferRequest, feed: Mapping[str, Array]) -> None:
    """Run a fresh request with no axis of size 1, if the given arrays have one.

    OpenVINO makes kernels for the first shapes that it meets. Those for a single token give wrong attention for 16
    tokens or more (2026.4).
    """
    model = request.get_compiled_model()
    longer = dict(feed)
    for name, array in feed.items():
        for axis, size in enumerate(model.input(name).partial_shape):
            if array.shape[axis] == 1 and size.is_dynamic:
                longer[name] = np.repeat(longer[name], 2, axis=axis)
    if any(longer[name].shape != array.shape for name, array in feed.items()):
        with_errors(lambda: request.infer(longer))


def has_no_elements(graph: Graph) -> bool:
    """Whether a value has no elements for inputs of any size. OpenVINO crashes on some of those."""
    return any(0 in value.type.shape for node in graph.walk() for value in (*node.operands, *node.outputs))


class Interpreted:
    """A graph that OpenVINO cannot run, run by the interpreter."""

    def __init__(self, graph: Graph, params: Params) -> None:
        self._graph, self._params = graph, params

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """The single result."""
        return self.outputs(arrays)[0]

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Every result."""
        return tuple(result.astype(np.float32) for result in interpret(self._graph, self._params, *arrays))


def with_errors(run: Any) -> Any:
    """Call a function. An error of OpenVINO becomes a TargetError, or an InputError if it is about a shape."""
    try:
        return run()
    except RuntimeError as error:
        text = str(error)
        if "is not compatible with" in text or "incompatible" in text:
            raise InputError(f"OpenVINO refuses an input: {reason(error)}", where="openvino") from error
        raise TargetError(f"OpenVINO fails: {reason(error)}", where="openvino") from error


def converted(inputs: Sequence[Port], arrays: Sequence[Array]) -> dict[str, Array]:
    """The arrays by name in the dtypes of these inputs. Raises InputError if the kind differs, as from float to int."""
    feed = {}
    for (name, dtype), array in zip(inputs, map(np.asarray, arrays)):
        if dtype is None:
            continue
        if array.size and not np.can_cast(array.dtype, dtype, "same_kind"):
            raise InputError(f"{name} must hold {dtype} numbers, got {array.dtype}")
        feed[name] = np.asarray(array, dtype, order="C")
    return feed
