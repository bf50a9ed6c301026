"""Single layers for custom models: one op of the IR, with its settings and width.

A backend turns them into modules: `flashir_torch.nn.FLASH`, `flashir_jax.nnx.FLASH`, `flashir_jax.eqx.FLASH`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from flashir.arguments import typed
from flashir.errors import FlashirError, SettingError, suggest
from flashir.execution.native import Settled
from flashir.ir import AUTO, Attr, Builder, Graph
from flashir.ir.dims import plain
from flashir.ir.op import REQUIRED, ParamSpec
from flashir.ir.parameter_names import parameters
from flashir.ir.settings import Settings
from flashir.ops import OPS, AttrSpec
from flashir.planning.workload import Workload

LAYERS: Mapping[str, str] = {record.layer: name for name, record in OPS.items() if record.layer}
"""The op of each layer class. Each maps x [b, t, d] to y [b, t, d], including norm and residual."""

_FIXED = ("scope", "valid")  # attributes that only matter inside a model


@dataclass(frozen=True)
class Layer:
    """One layer.

    Args:
        op: the name of the op.
        width: d of x [b, t, d].
        settings: every attribute of the op; `auto` for an open choice.
    """

    op: str
    width: int
    settings: Settings

    @staticmethod
    def of(op: str, width: int, settings: Mapping[str, Attr]) -> Layer:
        """A layer from the settings of a user.

        Raises:
            SettingError: lists every setting that is unknown or invalid, or settings that do not fit together, such as
                a width that is not a multiple of the heads.
        """
        known = settings_of(op)
        values = {
            name: AUTO if isinstance(value, str) and value == "auto" else plain(value)
            for name, value in settings.items()
        }
        problems = [f"there is no setting {name!r}{suggest(name, known)}" for name in values if name not in known]
        problems += [text for name, v in values.items() if name in known and (text := known[name].problem(name, v))]
        if isinstance(width := plain(width), bool) or not isinstance(width, int) or width < 1:
            problems.append(f"the width must be a whole number from 1, got {width!r}")
        complete = {name: values.get(name, spec.default) for name, spec in known.items()}
        problems += [f"the setting {name!r} is missing" for name, value in complete.items() if value is REQUIRED]
        if problems:
            raise SettingError(problems, where=op)
        layer = Layer(op, width, Settings(complete))
        layer.graph()  # raises if settings do not fit together
        return layer

    def graph(self, *, masked: bool = False) -> Graph:
        """`(x: [B, T, width]) -> y`, or `(x, mask: bool[B, T]) -> y`; its parameters have local names.

        An op that works on each token independently ignores the mask.
        """
        return _graph(self, masked)

    @property
    def params(self) -> dict[str, ParamSpec]:
        """The parameters by local name: `norm.scale`, `proj_in.weight`, .."""
        return parameters(self.graph())

    @typed
    def planned(self, target: str, batch: int, seq_len: int) -> Layer:
        """The layer with its chunk settled, because parameters depend on it. Strategies stay open.

        Raises the SettingError and TargetError of `flashir.plan`.
        """
        (node,) = self.settled(target, Workload(batch, seq_len)).model.nodes
        return replace(self, settings=Settings({name: node.attrs[name] for name in self.settings}))

    def settled(self, target: str, workload: Workload, *, masked: bool = False) -> Settled:
        """The planned graph of the layer. Raises the errors of `planned`."""
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
