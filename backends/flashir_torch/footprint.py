"""Run a program on fake tensors: check that it fits in memory, and that it is the program of its model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves

from flashir.errors import ArtefactError
from flashir.files.foreign import guarded
from flashir.ir import Graph, Value
from flashir.ir.dims import evaluate, symbols
from flashir.machine.memory import total_memory
from flashir_torch.session import input_type

WHOLE = torch.int64
"""The dtype of integer inputs of a program, as tokenizers return them."""

FIRST_EXAMPLE = 3  # the first size of the example; all sizes differ, so that none is mistaken for another
_SMALL = 1 << 24  # smaller results do not trigger a check


def example_shapes(model: Graph) -> list[list[int]]:
    """The shapes of the example inputs that a program is traced with."""
    return _shapes(model, model.inputs)


def check_run(program: ExportedProgram, model: Graph, path: Path) -> None:
    """Run a program on fake tensors of the example shapes.

    Args:
        program: the loaded program.
        model: its model, with the types of inputs and outputs.
        path: the path of its file.

    Raises:
        ArtefactError: it does not run, needs more memory than this machine has, or does not fit the model.
    """
    specs = program.graph_signature.input_specs
    shapes = example_shapes(model)
    if (taken := sum(spec.kind is InputKind.USER_INPUT for spec in specs)) != len(shapes):
        raise ArtefactError(f"its program takes {taken} inputs, its model {len(shapes)}", where=str(path))
    with guarded(path, ArtefactError, "its program does not run"), FakeTensorMode(), torch.no_grad():
        inputs = (
            torch.empty(shape, dtype=input_type(value, WHOLE))
            for shape, value in zip(shapes, model.inputs, strict=True)
        )
        arguments = [
            next(inputs) if spec.kind is InputKind.USER_INPUT else _hollow(program.state_dict[str(spec.target)])
            for spec in specs
        ]
        results = [list(result.shape) for result in _Run(program.graph_module, path).run(*arguments)]
    if results != (expected := _shapes(model, model.outputs)):
        raise ArtefactError(f"its program gives {results} for {shapes}, its model {expected}", where=str(path))


def _shapes(model: Graph, values: Sequence[Value]) -> list[list[int]]:
    names = sorted({name for value in model.inputs for size in value.type.shape for name in symbols(size)})
    sizes = dict(zip(names, count(FIRST_EXAMPLE, 2)))
    return [[evaluate(size, sizes) for size in value.type.shape] for value in values]


def _hollow(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


class _Run(fx.Interpreter):
    """Checks the memory of all live values after every large result."""

    def __init__(self, module: fx.GraphModule, path: Path) -> None:
        super().__init__(module)
        self.extra_traceback = False  # keep error messages short
        self._path = path
        self._most = total_memory()

    def run_node(self, n: fx.Node) -> Any:
        """The result of a call. Raises ArtefactError if it does not fit in memory with the live values."""
        result = super().run_node(n)
        if _bytes([result]) > _SMALL and (needed := _bytes([result, *self.env.values()])) > self._most:
            raise ArtefactError(
                f"it takes {needed:,} bytes for {n.name!r} alone, and this machine has {self._most:,}",
                where=str(self._path),
                hint="use a machine with more memory, if you trust its origin",
            )
        return result


def _bytes(values: list[Any]) -> int:
    """The bytes of all tensors among some values; shared storage counts once."""
    storages = [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
