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
from flashir_torch.nn.place import Place, code_graph
from flashir_torch.nn.tensor_inputs import TensorInputs
from flashir_torch.types import TYPES


class Model(Adapter):
    """A model with parameters under their full names. Its layers are the modules `layers.0`, `layers.1`, ..

    Args:
        model: the model, with its chunk settled.
        params: all parameters by full name; they are copied.

    Raises:
        ParameterError: a module cannot have a parameter of this name.
    """

    def __init__(self, model: Settled, params: Params) -> None:
        super().__init__(model.target)
        self.model = model.model
        self._settled = model
        self._inputs = TensorInputs(model.model)
        for name, array in params.items():
            register(self, name, nn.Parameter(torch.tensor(array)))
        self._follow()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The result of the model, or a tuple in the order of `return` if it has several.

        Args:
            inputs: tensors in the order of the model's inputs: integers for token ids and segment ids, bool for a mask,
                the dtype of the parameters for features.
            named: inputs by name.

        Raises:
            InputError: inputs are missing, have a wrong dtype or shape, or are on another device; on a CPU also token
                ids out of range, and rows of a mask without a token.
        """
        return self._code(self, *self._admitted(self._inputs, self._types, inputs, named))

    def _emit(self, place: Place) -> None:
        graph = code_graph(self._settled, place)
        own = {parameter_name(path): parameter for path, parameter in self.named_parameters()}
        emitted = module(graph, own)
        _graft(self, emitted)
        self._code = type(emitted).forward
        self._types = [TYPES[value.type.dtype] for value in graph.inputs]

    def extra_repr(self) -> str:
        """The name of the model, and the target and dtype of its code."""
        assert self._place is not None
        return f"@{self.model.name}, code for {self._place.target} in {self._place.dtype}"


def _graft(root: nn.Module, source: nn.Module) -> None:
    """Give a tree of modules the code of another tree with the same parameters. Existing modules stay in place.

    Layers become modules with code. Layers that already have code get the new code, and keep their hooks.
    """
    for name, new in source.named_children():
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
