"""The protocol of a frontend: where models come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from flashir.ir.graph import Attr, Graph


@runtime_checkable
class Frontend(Protocol):
    """A source of named models."""

    name: ClassVar[str]

    def models(self) -> Mapping[str, str]:
        """The names of its models, and a line on each."""
        ...

    def build(self, model: str, settings: Mapping[str, Attr]) -> Graph:
        """The model under those settings. Raises SettingError with every setting that is unknown or wrong."""
        ...
