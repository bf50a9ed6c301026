"""The base class of layers: one op of flashir as a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from flashir.execution.layers import Layer as Op
from flashir.execution.layers import settings_of
from flashir.ir import Attr
from flashir.planning.workload import Workload
from flashir_torch.emit import module
from flashir_torch.nn.adapter import Adapter, register
from flashir_torch.nn.place import Place, code_graph
from flashir_torch.nn.tensor_inputs import TensorInputs
from flashir_torch.types import TYPES


class Layer(Adapter):
    """x [b, t, width] -> y [b, t, width], including norm and residual.

    Its parameters have the same names as in a model of flashir, without the prefix `layers.0.`.

    Args:
        width: the width of x.
        target: the target for planning an open chunk, which parameters depend on; defaults to the GPU of this machine,
            or else the CPU.
        batch, seq_len: the typical workload; other batches and lengths work too.
        device, dtype: the device and dtype of the parameters.
        settings: attributes of the op, such as `key_dim=128`; `chunk=256` sets the chunk by hand.

    Raises:
        SettingError: lists every setting that is unknown, invalid, or does not fit the width.
        TargetError: as for `flashir.plan`.
    """

    op: ClassVar[str]

    def __init__(
        self,
        width: int,
        *,
        target: str | None = None,
        batch: int = 1,
        seq_len: int = 4096,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **settings: Attr,
    ) -> None:
        if target is None:
            target = "torch:cuda" if torch.cuda.is_available() else "torch:cpu"
        super().__init__(target)
        self._workload = Workload(batch, seq_len)
        self.layer = Op.of(self.op, width, settings).planned(target, batch, seq_len)
        for name, spec in self.layer.params.items():
            register(self, name, nn.Parameter(torch.empty(spec.shape, device=device, dtype=dtype)))
        self.reset_parameters()
        self._follow()

    def reset_parameters(self) -> None:
        """Initialise the parameters with PyTorch's random generator."""
        for name, spec in self.layer.params.items():
            nn.init.normal_(self.get_parameter(name), *spec.start())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [b, t, width] -> y [b, t, width].

        Args:
            x: in the dtype of the parameters, or any float dtype under autocast.
            mask: bool [b, t], true for tokens. Masked positions affect no others, and their results are unspecified.

        Raises:
            InputError: a tensor has a wrong dtype or shape; on a CPU also if a row of the mask has no token.
        """
        code = self._codes[mask is not None]
        inputs = (x,) if mask is None else (x, mask)
        result: Tensor = code.call(self, *self._admitted(code.inputs, code.types, inputs, {}))
        return result

    def _emit(self, place: Place) -> None:
        self._codes = [_code(self.layer, self._workload, self._target, place, masked) for masked in (False, True)]
        for code in self._codes:
            for name, body in code.bodies.items():
                object.__setattr__(self, name, body)

    def extra_repr(self) -> str:
        """The width, and the settings that differ from the defaults."""
        specs = settings_of(self.op)
        own = (f"{name}={value!r}" for name, value in self.layer.settings.items() if value != specs[name].default)
        return ", ".join((str(self.layer.width), *own))


@dataclass(frozen=True)
class Code:
    """The code of a layer, shared by equal layers.

    Args:
        call: a function of the module with the parameters and the bodies, and of the inputs.
        bodies: the bodies of its loops, by attribute name.
        inputs: the check of the inputs.
        types: the dtypes of the inputs.
    """

    call: Callable[..., Any]
    bodies: Mapping[str, fx.GraphModule]
    inputs: TensorInputs
    types: tuple[torch.dtype, ...]


@lru_cache(maxsize=256)
def _code(layer: Op, workload: Workload, target: str, place: Place, masked: bool) -> Code:
    settled = layer.settled(target, workload, masked=masked)
    graph = code_graph(settled, place)
    blank = {
        name: nn.Parameter(torch.empty(spec.shape, dtype=TYPES[place.dtype], device="meta"))
        for name, spec in layer.params.items()
    }
    whole, bodies = module(graph, blank), {}
    for node in whole.graph.find_nodes(op="get_attr"):
        if isinstance(body := whole._modules.get(node.target), fx.GraphModule):
            node.target = f"_{'masked' if masked else 'plain'}_{node.target}"
            bodies[node.target] = body
            whole.add_module(node.target, body)
    whole.recompile()
    types = tuple(TYPES[value.type.dtype] for value in graph.inputs)
    return Code(type(whole).forward, bodies, TensorInputs(settled.model), types)
