"""Read the tensors of a live PyTorch module."""

from __future__ import annotations

from typing import Any

from flashir.errors import SettingError
from flashir.importing.importer import Held
from flashir.importing.named_arrays import named_arrays

WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
"""Wrapper classes of modules, and the attribute of the wrapped module."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_module(source: Any) -> bool:
    """Whether this is a PyTorch module, without importing PyTorch."""
    return all(hasattr(source, name) for name in ("state_dict", "named_modules", "forward", "get_submodule"))


def read_module(source: Any, prefix: str = "") -> Held:
    """The tensors of a module, or of its submodule under a prefix.

    Hooks and a replaced `forward` are among its problems, because they may change what it computes.

    Raises:
        SettingError: there is no such submodule.
        ParameterError: tensors have no numbers that NumPy can hold, such as those on the device `meta`.
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
    where, problems = type(source).__name__, []
    for name, module in source.named_modules():
        label = f"{name or 'the module'} ({type(module).__name__})"
        if hooks := [hook for hook in HOOKS if getattr(module, hook, None)]:
            problems.append(f"{label} has {' and '.join(hooks)}, which may change what it computes")
        if "forward" in vars(module):
            problems.append(f"{label} has a forward of its own in place of its class's")
    return Held(named_arrays(source.state_dict(), where), where, {}, source, tuple(notes), tuple(problems))
