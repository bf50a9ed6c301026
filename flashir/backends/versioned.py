"""The protocol of a backend whose artefacts have versions to choose from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flashir.backends.protocols import Backend, Exporter


@runtime_checkable
class Versioned(Exporter, Protocol):
    """An exporter whose format has several versions, and several types for token ids."""

    def formatted(self, opset: int | None, ids: str | None) -> Backend:
        """This backend with artefacts of that opset, and of that type of token ids; None for the default.

        Raises SettingError for one that the format does not have, or that cannot express a model.
        """
        ...
