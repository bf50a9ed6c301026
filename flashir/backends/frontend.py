"""The protocol of a frontend, a source of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from flashir.ir.graph import Attr, Graph


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
