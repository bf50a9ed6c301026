"""Export a function as portable StableHLO with jax.export, for any batch and length; needs no device."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.errors import InconclusiveDimensionOperation

from flashir.errors import ArtefactError, InputError, TargetError
from flashir.files.foreign import guarded
from flashir.ir import DType, Graph, Node, evaluate
from flashir.ir.dims import symbols
from flashir.transforms import bind_sizes, specialise
from flashir_jax.functions import Function
from flashir_jax.layout import Stack
from flashir_jax.pallas.claims import KERNELS
from flashir_jax.session import exactly
from flashir_jax.types import element_type, enough_bits, in_float64

_CALL = re.compile(r"stablehlo\.custom_call @(\w+)\(")
_CALLS = ("shape_assertion", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape")
"""Custom calls that a module may contain, besides Pallas kernels on TPU. Others could run any code of this process."""

_DIMENSION = re.compile(r"(?!(floordiv|mod|max|min)\Z)[A-Za-z][A-Za-z0-9_]*\Z")


def exported(apply: Function, platforms: tuple[str, ...]) -> bytes:
    """Serialise the function of (stacked parameters, *inputs) for some platforms, with the symbolic sizes of the graph.

    Raises:
        TargetError: the graph cannot be traced with symbolic sizes, or JAX cannot export for a platform.
    """
    export = _jax_export()
    names = sorted({name for value in apply.graph.inputs for size in value.type.shape for name in symbols(size)})
    wrong = [name for name in names if not _DIMENSION.match(name)]
    if wrong:
        raise TargetError(f"jax.export does not allow a size called {', '.join(wrong)}", where="jax", hint="rename it")
    sizes = dict(zip(names, export.symbolic_shape(", ".join(names)) if names else (), strict=True))
    try:
        with enough_bits(in_float64(apply.graph)):
            inputs = [
                _spec(tuple(evaluate(n, sizes) for n in value.type.shape), value.type.dtype)
                for value in apply.graph.inputs
            ]
            result = export.export(jax.jit(exactly(apply)), platforms=platforms)(specs(apply.parameters), *inputs)
            return bytes(result.serialize())
    except (NotImplementedError, ValueError, TypeError, InconclusiveDimensionOperation) as error:
        first, *_ = str(error).splitlines() or [type(error).__name__]
        raise TargetError(f"JAX cannot export @{apply.graph.name} for {' and '.join(platforms)}: {first}") from error


def particulars(graph: Graph) -> tuple[str, ...]:
    """Notes on how the exported function differs between platforms, or from a run without export."""
    notes = []
    if kernels := sorted({node.op for node in graph.walk()} & KERNELS.keys()):
        notes.append(f"on a tpu, {' and '.join(kernels)} is a Pallas kernel; on cpu, its parts")
    if any(node.op == "cumsum" and not _known(node) for node in graph.walk()):
        notes.append("running sums are sequential: JAX sums in parallel only over a known length, and this one is open")
    return tuple(notes)


def _known(node: Node) -> bool:
    axis = node.attrs["axis"]
    assert isinstance(axis, int)
    return isinstance(node.output.type.shape[axis], int)


def specs(parameters: Mapping[str, Stack]) -> dict[str, Any]:
    """The shapes and dtypes of the stacked parameters."""
    return {name: _spec(stack.stacked_shape, stack.dtype) for name, stack in parameters.items()}


def imported(content: bytes | bytearray, where: str) -> Any:
    """The inverse of `exported`. Raises ArtefactError if it is invalid, or has forbidden custom calls."""
    problem = f"this JAX ({jax.__version__}) cannot read the function"
    hint = "export the model again; JAX reads exports of its releases of the last six months"
    export = _jax_export()
    with guarded(where, ArtefactError, problem, hint):  # the reader raises any exception for invalid bytes
        function = export.deserialize(bytearray(content))
        text = function.mlir_module()
    allowed = {*_CALLS, *(("tpu_custom_call",) if "tpu" in function.platforms else ())}
    called = _CALL.findall(text)
    if forbidden := sorted({*called} - allowed) or (
        ["another"] if text.count("stablehlo.custom_call") != len(called) else []
    ):
        raise ArtefactError(
            f"the function calls {forbidden[0]}, which no export does",
            where=where,
            hint="load only what you, or someone you trust, exported",
        )
    return function


def callable_of(function: Any, graph: Graph) -> Callable[..., Any]:
    """Wrap the exported function of a model to accept the same sizes as the model, including 0.

    jax.export requires symbolic sizes to be at least 1. When traced, the wrapper raises InputError for sizes that an op
    of the model rejects.
    """

    def call(params: Mapping[str, Any], *inputs: Any) -> Any:
        types = [value.type for value in specialise(graph, bind_sizes(graph, [x.shape for x in inputs])).outputs]
        if all(x.size for x in inputs):
            return function.call(params, *inputs)
        if any(type_.count for type_ in types):
            raise InputError("this artefact takes no empty inputs", where="jax")
        empty = tuple(jnp.zeros(type_.sizes, element_type(type_.dtype)) for type_ in types)
        return empty[0] if len(empty) == 1 else empty

    return call


def _spec(shape: tuple[Any, ...], dtype: DType) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, element_type(dtype))


def _jax_export() -> Any:
    try:
        from jax import export
    except ImportError as error:  # JAX 0.6.0 does not declare its dependency on absl
        raise TargetError(f"jax.export does not load: {error}", where="jax", hint="pip install -U jax") from error
    return export
