"""Live modules of PyTorch, told by what they have: a class without hooks, and a table of tensors."""

from __future__ import annotations

from typing import Any

from flashir.errors import SettingError
from flashir.importing.importer import Array, Held
from flashir.reference.arrays import as_array

WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
"""Classes around a module, and the attribute under which they keep it."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_module(source: Any) -> bool:
    """Whether this is a module of PyTorch, which need not be imported to tell."""
    return all(hasattr(source, name) for name in ("state_dict", "named_modules", "forward", "get_submodule"))


def read_module(source: Any, prefix: str = "") -> Held:
    """The tensors of a module, or of the part of it under a prefix.

    Raises SettingError where hooks or a replaced `forward` make of it what its class does not say.
    """
    notes = []
    while (inner := WRAPPERS.get(type(source).__name__)) is not None and hasattr(source, inner):
        notes.append(f"taken out of its {type(source).__name__}")
        source = getattr(source, inner)
    if prefix:
        try:
            source = source.get_submodule(prefix.strip("."))
        except AttributeError as error:
            raise SettingError(f"there is no module {prefix!r}: {error}", where=type(source).__name__) from None
    problems = []
    for name, module in source.named_modules():
        told = f"{name or 'the module'} ({type(module).__name__})"
        if hooks := [each for each in HOOKS if getattr(module, each, None)]:
            problems.append(f"{told} has {' and '.join(hooks)}, which may change what it computes")
        if "forward" in vars(module):
            problems.append(f"{told} has a forward of its own in place of its class's")
    if problems:
        raise SettingError(problems, where=type(source).__name__, hint="remove them, or convert its state_dict")
    arrays: dict[str, Array] = {name: as_array(tensor) for name, tensor in source.state_dict().items()}
    return Held(arrays, type(source).__name__, module=source, notes=tuple(notes))
