"""The protocol of a frontend, a source of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from flashir.ir.graph import Attr, Graph
from flashir.ir.op import AttrSpec


@runtime_checkable
class Frontend(Protocol):
    """A source of named models."""

    name: ClassVar[str]

    def models(self) -> Mapping[str, str]:
        """The names of its models, each with a line of documentation."""
        ...

    def build(self, model: str, settings: Mapping[str, Attr]) -> Graph:
        """Build a model. Raises SettingError that lists every unknown or invalid setting."""
        ...


@runtime_checkable
class Described(Frontend, Protocol):
    """A frontend that says which settings its models have."""

    def settings(self, model: str) -> Mapping[str, AttrSpec]:
        """The settings of one of its models, by name."""
        ...
