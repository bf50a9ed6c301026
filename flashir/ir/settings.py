"""Settings: the values of the choices of a model. `flashir.transforms.settle_choices` puts them into the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from flashir.ir.graph import Attr


class Settings(Mapping[str, Attr]):
    """Values of choices by slot name: `Settings(chunk=256, cumsum="scan")`. Immutable and hashable."""

    def __init__(self, values: Mapping[str, Attr] | None = None, **more: Attr) -> None:
        self._values = MappingProxyType({**(values or {}), **more})

    def __getitem__(self, name: str) -> Attr:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __deepcopy__(self, memo: object) -> Settings:
        return self

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def __or__(self, other: Mapping[str, Attr]) -> Settings:
        return Settings({**self._values, **other})

    def value(self, attr: str) -> Any:
        """The value of the first slot of this attribute, of any op; None if there is none."""
        return next((value for name, value in self._values.items() if attribute_of(name) == attr), None)


class SettingsViews:
    """Properties for the choices that the command line and its JSON name. A mixin for classes with `settings`."""

    settings: Settings

    @property
    def chunk(self) -> int | None:
        """Tokens per chunk; None if the model has no chunks."""
        chunk: int | None = self.settings.value("chunk")
        return chunk

    @property
    def cumsum(self) -> str | None:
        """The strategy of the cumulative sum; None if the model has none."""
        cumsum: str | None = self.settings.value("cumsum")
        return cumsum

    @property
    def tile(self) -> int | None:
        """Tokens per tile of token-level linear attention; None if the model has none."""
        tile: int | None = self.settings.value("tile")
        return tile


def attribute_of(name: str) -> str:
    """The attribute of a slot: `chunk` for `flash.chunk`."""
    return name.rpartition(".")[2]


def setting_text(name: str, value: Attr) -> str:
    """The value as text: `chunk 256`, or a string value without its name."""
    return str(value) if isinstance(value, str) else f"{name} {value}"
