"""Single layers, for models that people write in their own framework: one op of the IR, its settings, its width.

A backend makes modules of them: `flashir_torch.nn.FLASH`, `flashir_jax.nnx.FLASH`, `flashir_jax.eqx.FLASH`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from flashir.errors import FlashirError, SettingError, suggest
from flashir.execution.native import Settled
from flashir.ir import AUTO, Attr, Builder, Graph
from flashir.ir.dims import plain
from flashir.ir.op import REQUIRED, ParamSpec
from flashir.ir.parameter_names import parameters
from flashir.ops import OPS, AttrSpec
from flashir.planning.workload import Workload
from flashir.transforms.settle_choices import Settings

LAYERS: Mapping[str, str] = {
    "FLASH": "flash",
    "GAU": "gau",
    "MixedChunkAttention": "mc_mhsa",
    "Attention": "mhsa",
    "Performer": "performer",
    "Combiner": "combiner",
    "MLP": "mlp",
    "GLU": "glu",
}
"""The op of each layer, by the name of its class. Each maps x [b, t, d] to y [b, t, d], norm and residual included."""

_FIXED = ("scope", "valid")  # where a layer stands in a model of flashir, which here is none


@dataclass(frozen=True)
class Layer:
    """One layer.

    Args:
        op: its name in the IR.
        width: d of x [b, t, d].
        settings: every attribute of the op; `auto` where it is open.
    """

    op: str
    width: int
    settings: Settings

    @staticmethod
    def of(op: str, width: int, given: Mapping[str, Attr]) -> Layer:
        """A layer from what a user gives.

        Raises:
            SettingError: every setting that is unknown or wrong.
            IRError: what does not fit together, such as a width that heads do not divide.
        """
        known = settings_of(op)
        values = {name: AUTO if value == "auto" else plain(value) for name, value in given.items()}
        problems = [f"there is no setting {name!r}{suggest(name, known)}" for name in values if name not in known]
        problems += [told for name, v in values.items() if name in known and (told := known[name].problem(name, v))]
        if isinstance(width := plain(width), bool) or not isinstance(width, int) or width < 1:
            problems.append(f"the width must be a whole number from 1, got {width!r}")
        complete = {name: values.get(name, spec.default) for name, spec in known.items()}
        problems += [f"the setting {name!r} is missing" for name, value in complete.items() if value is REQUIRED]
        if problems:
            raise SettingError(problems, where=op)
        made = Layer(op, width, Settings(complete))
        made.graph()  # raises where settings do not fit together
        return made

    def graph(self, *, masked: bool = False) -> Graph:
        """`(x: [B, T, width]) -> y`, or `(x, mask: bool[B, T]) -> y`; its parameters have local names.

        An op that looks at each token alone has no use for a mask.
        """
        return _graph(self, masked)

    @property
    def params(self) -> dict[str, ParamSpec]:
        """What the layer learns, by local name: `norm.scale`, `proj_in.weight`, .."""
        return parameters(self.graph())

    @property
    def takes_mask(self) -> bool:
        """Whether a mask changes anything."""
        return "documents?" in OPS[self.op].operands

    def planned(self, target: str, batch: int, seq_len: int) -> Layer:
        """The layer with its chunk settled, for parameters depend on it; strategies stay open.

        Raises SettingError, TargetError as `flashir.plan`.
        """
        (node,) = self.settled(target, Workload(batch, seq_len)).model.nodes
        return replace(self, settings=Settings({name: node.attrs[name] for name in self.settings}))

    def settled(self, target: str, workload: Workload, *, masked: bool = False) -> Settled:
        """The graph of the layer, planned. Raises as `planned`."""
        return _settled(self, target, workload, masked)


def settings_of(op: str) -> dict[str, AttrSpec]:
    """The settings of a layer by name, from the record of its op."""
    return {name: spec for name, spec in OPS[op].attrs.items() if name not in _FIXED}


@lru_cache(maxsize=256)
def _graph(layer: Layer, masked: bool) -> Graph:
    b = Builder(layer.op)
    x = b.input("x", f"f32[B, T, {layer.width}]")
    mask = b.input("mask", "bool[B, T]") if masked else None
    operands = [mask if name == "documents?" else None for name in OPS[layer.op].operands[1:]]
    try:
        (y,) = b.insert(layer.op, (x, *operands), {**layer.settings, "scope": ""})
    except FlashirError as error:
        raise SettingError(error.problems, where=f"{layer.op} of width {layer.width}", hint=error.hint) from None
    return b.finish(y)


@lru_cache(maxsize=256)
def _settled(layer: Layer, target: str, workload: Workload, masked: bool) -> Settled:
    return Settled.of(layer.graph(masked=masked), target, workload)
