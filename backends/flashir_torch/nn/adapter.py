"""The base class of models and layers: named parameters, checked inputs, and code for their device and dtype."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from flashir_torch.names import attribute_path, check_path, parameter_name
from flashir_torch.nn.place import Place
from flashir_torch.nn.tensor_inputs import TensorInputs


def _rename_saved(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give parameters their own names, which differ from attributes where a part is a keyword."""
    for path in [path for path in state if path.startswith(prefix)]:
        state[prefix + parameter_name(path.removeprefix(prefix))] = state.pop(path)


def _rename_loaded(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + attribute_path(name.removeprefix(prefix))] = state.pop(name)


class Adapter(nn.Module, ABC):
    """A module whose code is generated for the device and dtype of its parameters, and regenerated after `.to`.

    Args:
        target: the target of the plan.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_rename_saved)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_rename_loaded)  # type: ignore[no-untyped-call]
        self._target = target
        self._place: Place | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._follow()
        return self

    def _follow(self) -> None:
        """Generate code for the current place of the parameters, unless it exists."""
        place = Place.of(self, self._target)
        if place != self._place:
            self._emit(place)
            self._place = place

    @abstractmethod
    def _emit(self, place: Place) -> None:
        """Generate the code for a place."""

    def _admitted(
        self, wanted: TensorInputs, types: Sequence[torch.dtype], positional: Sequence[Any], named: Mapping[str, Any]
    ) -> list[Tensor]:
        """The inputs in order, checked. Raises InputError."""
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        return wanted.checked(wanted.collected(positional, named), types, device)


def register(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register `a.b.weight` in a tree of modules, as a parameter or as a buffer.

    Raises ParameterError if a module cannot have a parameter of this name.
    """
    *path, last = attribute_path(check_path(name)).split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)
