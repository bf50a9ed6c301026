"""Quantised weights: their entry in the metadata of an artefact, and the protocol of a backend."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flashir.backends.protocols import Exporter

WEIGHTS = "flashir.weights"
"""The metadata key of an artefact for the type of its quantised weights."""


def weights_entry(kind: str | None) -> dict[str, str]:
    """The entry of the metadata for quantised weights of a kind; none for weights in the compute dtype."""
    return {} if kind is None else {WEIGHTS: kind}


@runtime_checkable
class Quantising(Exporter, Protocol):
    """An exporter that can quantise weights. The artefact records their type in its metadata under `WEIGHTS`."""

    def quantised(self, kind: str) -> Exporter:
        """This backend with quantised weights. A check of an export then runs the quantised artefact.

        Args:
            kind: the type of the weights, such as `int8`.

        Raises:
            SettingError: the kind is not supported.
        """
        ...
