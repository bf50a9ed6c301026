"""The protocol of an importer: which models of another package become models of the IR, and how.

A package of importers is a plug-in, as a backend is: an entry point of `flashir.importers` names a class that follows
`Importer`. What is common to all of them, reading files, asking for options, comparing, is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from flashir.errors import TargetError
from flashir.ir.graph import Graph
from flashir.ir.op import AttrSpec
from flashir.plugins import IMPORTERS, load, plugins

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Shapes = Mapping[str, tuple[int, ...]]
Settings = dict[str, Any]
"""What a model is: sizes that its shapes tell, and options."""

Forward = Callable[..., Array]
"""The inputs of a model, as numpy arrays -> its result in float64."""

TOLERANCE = 2e-5


@dataclass(frozen=True)
class Held:
    """What a source holds.

    Args:
        arrays: the tensors by name, prefixes of wrappers taken off; floats in the type that they were stored in, a
            bfloat16 in the float32 that equals it.
        where: the file, or the class of a module, for messages.
        said: what a config.json beside them says.
        module: the live module that they are of.
        notes: what people should know of how it was read.
    """

    arrays: Arrays
    where: str
    said: Mapping[str, Any] = field(default_factory=dict)
    module: Any = None
    notes: tuple[str, ...] = ()

    @property
    def shapes(self) -> Shapes:
        """The shape of each tensor."""
        return {name: array.shape for name, array in self.arrays.items()}


class Structure(Protocol):
    """One kind of model of a package, such as its language model, or one of its layers."""

    @property
    def name(self) -> str:
        """As the package calls it."""
        ...

    @property
    def options(self) -> Mapping[str, AttrSpec]:
        """What no shape tells. One that is REQUIRED is asked for; others have the default of the package."""
        ...

    def recognise(self, shapes: Shapes) -> bool:
        """Whether these are the tensors of such a model, as far as their names tell."""
        ...

    def read_module(self, module: Any) -> Settings:
        """The options of a live module. Raises SettingError with all that is foreign in it."""
        ...

    def read_config(self, said: Mapping[str, Any]) -> Settings:
        """The options that a config.json says."""
        ...

    def sizes(self, shapes: Shapes) -> Settings:
        """What the shapes tell. Raises ParameterError where they tell nothing."""
        ...

    def layout(self, settings: Settings) -> Shapes:
        """Every tensor that such a model has, and its shape."""
        ...

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """What else is wrong, such as frequencies that are not the model's, or settings that it cannot have."""
        ...

    def build(self, arrays: Arrays, settings: Settings) -> tuple[Graph, dict[str, Array]]:
        """The model, and its parameters by the names of the contract."""
        ...

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Inputs of a model, for a comparison."""
        ...

    def lengths(self, settings: Settings) -> Sequence[int]:
        """The lengths at which a comparison tells most."""
        ...

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """The model in numpy, written from the package and apart from `build`."""
        ...

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """The model of the package itself, in float64; None where the package is not installed."""
        ...

    def live(self, module: Any, settings: Settings) -> Forward:
        """A copy of a live module, in float64."""
        ...


@runtime_checkable
class Importer(Protocol):
    """The models of one package."""

    name: ClassVar[str]

    def structures(self) -> Sequence[Structure]:
        """Its kinds of models; those that are more come first."""
        ...


@cache
def importer(name: str) -> Importer:
    """The importer of that name. Raises TargetError where it is unknown or does not load."""
    kind = load(IMPORTERS, name)
    made = kind() if callable(kind) else kind
    if not isinstance(made, Importer):
        raise TargetError(f"the plug-in {plugins(IMPORTERS)[name].value} is no Importer")
    return made


def importers() -> Mapping[str, Importer]:
    """Every importer that loads, by name."""
    found: dict[str, Importer] = {}
    for name in sorted(plugins(IMPORTERS)):
        with suppress(TargetError):
            found[name] = importer(name)
    return found
