"""The checks of a PyTorch archive before it becomes an artefact."""

from __future__ import annotations

import torch

from flashir.errors import ArtefactError, FlashirError
from flashir.ir import Graph
from flashir.ir.dims import symbols
from flashir.reference.compare import sample_inputs
from flashir_torch.stored import Loaded

SMALLEST = (0, 1, 2)
"""The sizes that programs reject most easily. Programs with a loop reject 0: see `without_loops`."""


def verify(loaded: Loaded) -> tuple[str, ...]:
    """Run a loaded artefact at the smallest sizes. Returns a line for each check, those of `read` included.

    Raises:
        ArtefactError: a check failed.
    """
    ops = sum(node.op == "call_function" for node in loaded.nodes)
    return (
        "sha256 of the whole file",
        "no pickled tensors, no expressions but of sizes, no operators but of exports",
        f"torch.export.load: {ops} operators, {len(loaded.program.state_dict)} parameters",
        *_smallest(loaded),
    )


def _smallest(loaded: Loaded) -> tuple[str, ...]:
    names = _open_sizes(loaded.model)
    if not names:
        return ()
    run, loops = loaded.session("cpu"), any(node.target is torch.ops.higher_order.scan for node in loaded.nodes)
    sizes = SMALLEST[1:] if loops else SMALLEST
    for size in sizes:
        try:
            run.outputs(sample_inputs(loaded.model, dict.fromkeys(names, size)))
        except FlashirError as error:
            sizes_text = ", ".join(f"{name} = {size}" for name in names)
            raise ArtefactError(
                f"the program does not run with {sizes_text}: {error.problems[0]}", where=str(loaded.path)
            ) from error
    return (f"run with {', '.join(names)} = {', '.join(map(str, sizes))}",)


def _open_sizes(model: Graph) -> list[str]:
    return sorted({name for value in model.inputs for size in value.type.shape for name in symbols(size)})
