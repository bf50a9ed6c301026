"""The protocols of an importer, which converts models to the IR.

An importer is a plug-in: an entry point of `flashir.importers` names a class that implements `Importer`, for the models
of a package, or `FileImporter`, for a file format. The parts that importers of packages share are in this folder:
reading tensors, collecting options, comparing results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from flashir.errors import TargetError
from flashir.importing.converted import Converted
from flashir.ir.graph import Graph
from flashir.ir.op import AttrSpec
from flashir.plugins import IMPORTERS, start, working
from flashir.reference.arrays import Array

Arrays = Mapping[str, Array]
Shapes = Mapping[str, tuple[int, ...]]
Settings = dict[str, Any]
"""The sizes of a model, determined by its shapes, and its options."""

Forward = Callable[..., Array]
"""The inputs of a model as NumPy arrays -> its result in float64."""

TOLERANCE = 2e-5


@dataclass(frozen=True)
class Held:
    """The content of a source.

    Args:
        arrays: the tensors by name, without prefixes of wrappers, in their stored dtypes; bfloat16 becomes float32.
        where: the file, or the class of a module, for messages.
        config: the content of config.json.
        module: the live module of the tensors.
        notes: notes for the user on how it was read.
        problems: what is wrong with it, whatever its kind.
    """

    arrays: Arrays
    where: str
    config: Mapping[str, Any] = field(default_factory=dict)
    module: Any = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def shapes(self) -> Shapes:
        """The shape of each tensor."""
        return {name: array.shape for name, array in self.arrays.items()}


class Structure(Protocol):
    """One kind of model of a package, such as its language model, or one of its layers."""

    @property
    def name(self) -> str:
        """The name in the package."""
        ...

    @property
    def options(self) -> Mapping[str, AttrSpec]:
        """Options that shapes do not determine. REQUIRED ones must be given; others default to those of the package."""
        ...

    def recognise(self, shapes: Shapes) -> bool:
        """Whether the names of the tensors fit such a model."""
        ...

    def read_module(self, module: Any) -> Settings:
        """The options of a live module. Raises SettingError that lists its foreign parts."""
        ...

    def sizes(self, shapes: Shapes) -> Settings:
        """The sizes that shapes determine. Raises ParameterError if they are inconsistent."""
        ...

    def layout(self, settings: Settings) -> Shapes:
        """The shape of every tensor of such a model."""
        ...

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """Further problems, such as wrong frequencies, or unsupported settings."""
        ...

    def build(self, arrays: Arrays, settings: Settings) -> tuple[Graph, dict[str, Array]]:
        """The model, and its parameters by flashir's names."""
        ...

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Random inputs of a model for a comparison."""
        ...

    def lengths(self, settings: Settings) -> Sequence[int]:
        """The critical lengths for a comparison."""
        ...

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """A NumPy implementation of the package's model, independent of `build`."""
        ...

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """The model of the package itself in float64; None if the package is not installed."""
        ...

    def live(self, module: Any, settings: Settings) -> Forward:
        """A copy of a live module, in float64."""
        ...


@runtime_checkable
class Importer(Protocol):
    """The models of one package, recognised by the names and shapes of their tensors."""

    name: ClassVar[str]

    def structures(self) -> Sequence[Structure]:
        """Its kinds of models; those that contain others come first."""
        ...


@runtime_checkable
class FileImporter(Protocol):
    """A file format that holds a whole model: its function, and its parameters."""

    name: ClassVar[str]
    reads: ClassVar[str]
    """The files of this format, for messages, such as `an ONNX file`."""

    def read(self, path: Path, verify: bool) -> Converted | None:
        """The model in a file or folder; None if it is of another format.

        Args:
            path: the file or folder, which may not exist. It is untrusted.
            verify: compare the result with the file before it is returned.

        Raises:
            FlashirError: the file is of this format, but is damaged, or no model of the IR computes the same.
        """
        ...


@cache
def importer(name: str) -> Importer | FileImporter:
    """The importer of this name. Raises TargetError if it is unknown or does not load."""
    started: Importer | FileImporter = start(IMPORTERS, name, Importer, FileImporter)
    return started


def importers() -> Mapping[str, Importer]:
    """Every importer of a package that loads, by name."""
    return {name: kind for name, kind in working(IMPORTERS, importer)[0].items() if isinstance(kind, Importer)}


def file_importers() -> Mapping[str, FileImporter]:
    """Every importer of a file format that loads, by name."""
    return {name: kind for name, kind in working(IMPORTERS, importer)[0].items() if isinstance(kind, FileImporter)}


def broken_importers() -> Mapping[str, TargetError]:
    """The errors of the importers that do not load, by name."""
    return working(IMPORTERS, importer)[1]
