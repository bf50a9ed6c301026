"""A run of a program on tensors that have shapes and no numbers: whether it fits, and is that of its model."""

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
"""The type in which a program takes whole numbers: what tokenizers give."""

FIRST_EXAMPLE = 3  # sizes of the example, no two alike, so that none passes for another
_SMALL = 1 << 24  # bytes of a result that nothing is counted for


def example_shapes(model: Graph) -> list[list[int]]:
    """The shapes of the inputs that a program is traced with."""
    return _shapes(model, model.inputs)


def check_run(program: ExportedProgram, model: Graph, path: Path) -> None:
    """Runs a program without numbers, on the few tokens that it was traced with.

    Args:
        program: as it was read.
        model: what goes in and comes out.
        path: of its file.

    Raises:
        ArtefactError: it does not run, takes more memory than this machine has, or is not that of the model.
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
        results = [list(each.shape) for each in _Run(program.graph_module, path).run(*arguments)]
    if results != (wanted := _shapes(model, model.outputs)):
        raise ArtefactError(f"its program gives {results} for {shapes}, its model {wanted}", where=str(path))


def _shapes(model: Graph, values: Sequence[Value]) -> list[list[int]]:
    names = sorted({name for value in model.inputs for size in value.type.shape for name in symbols(size)})
    sizes = dict(zip(names, count(FIRST_EXAMPLE, 2)))
    return [[evaluate(size, sizes) for size in value.type.shape] for value in values]


def _hollow(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


class _Run(fx.Interpreter):
    """Counts the memory of what is alive whenever something large is made."""

    def __init__(self, module: fx.GraphModule, path: Path) -> None:
        super().__init__(module)
        self.extra_traceback = False  # errors say what they say
        self._path = path
        self._most = total_memory()

    def run_node(self, n: fx.Node) -> Any:
        """The result of a call. Raises ArtefactError where it does not fit beside what is alive."""
        result = super().run_node(n)
        if _bytes([result]) > _SMALL and (needed := _bytes([result, *self.env.values()])) > self._most:
            raise ArtefactError(
                f"it takes {needed:,} bytes for {n.name!r} alone, and this machine has {self._most:,}",
                where=str(self._path),
                hint="take a machine with more memory, if you trust who made it",
            )
        return result


def _bytes(values: list[Any]) -> int:
    """Of the memory of all tensors among some values; what is shared counts once."""
    storages = [each.untyped_storage() for each in tree_leaves(values) if isinstance(each, Tensor)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
