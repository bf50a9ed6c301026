"""A whole model as a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from flashir.backends.protocols import Params
from flashir.execution.native import Settled
from flashir_torch.emit import module
from flashir_torch.names import parameter_name
from flashir_torch.nn.adapter import Adapter, register
from flashir_torch.nn.given import Given
from flashir_torch.nn.place import Place, code_graph
from flashir_torch.types import TYPES


class Model(Adapter):
    """A model with parameters under their full names; its layers are the modules `layers.0`, `layers.1`, ..

    Args:
        model: whose chunk is settled.
        params: all of its parameters, by full name; they are copied.

    Raises:
        ParameterError: a name is none that a module can have.
    """

    def __init__(self, model: Settled, params: Params) -> None:
        super().__init__(model.target)
        self.model = model.model
        self._settled = model
        self._given = Given(model.model)
        for name, array in params.items():
            register(self, name, nn.Parameter(torch.tensor(array)))
        self._follow()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The result of the model, or a tuple of all in the order of `return` where it has several.

        Args:
            inputs: tensors in the order of the model's inputs: whole numbers for token ids and segment ids, bool for a
                mask, for features the type of the parameters.
            named: the same by name.

        Raises:
            InputError: inputs that are missing, of another type or shape, or on another device; on a processor also
                token ids that there are not, and rows of a mask without a token.
        """
        return self._code(self, *self._admitted(self._given, self._types, inputs, named))

    def _emit(self, place: Place) -> None:
        graph = code_graph(self._settled, place)
        own = {parameter_name(path): each for path, each in self.named_parameters()}
        made = module(graph, own)
        _graft(self, made)
        self._code = type(made).forward
        self._types = [TYPES[value.type.dtype] for value in graph.inputs]

    def extra_repr(self) -> str:
        """The name of the model, and where its code runs."""
        assert self._place is not None
        return f"@{self.model.name}, code for {self._place.target} in {self._place.dtype}"


def _graft(root: nn.Module, made: nn.Module) -> None:
    """Give a tree of modules the code of another that has the same parameters; what it has already stays where it is.

    Layers become modules that have code; those that had some get other code, and keep their hooks.
    """
    for name, new in made.named_children():
        old = root._modules.get(name)
        if (
            isinstance(new, fx.GraphModule)
            and isinstance(old, fx.GraphModule)
            and next(new.parameters(), None) is not None
        ):
            _graft(old, new)
            old.graph = new.graph
        elif old is None or isinstance(new, fx.GraphModule):
            root.add_module(name, new)
        else:
            _graft(old, new)
