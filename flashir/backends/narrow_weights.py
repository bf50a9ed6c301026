"""Weights in fewer bits than a model computes in: what says so in an artefact, and what a backend provides."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flashir.backends.protocols import Exporter

WEIGHTS = "flashir.weights"
"""In the metadata of an artefact: what its weights were quantised to, where they were."""


@runtime_checkable
class Quantising(Exporter, Protocol):
    """An exporter that can also write weights in fewer bits than the model computes in.

    The metadata of such an artefact say so, under `WEIGHTS`.
    """

    def quantised(self, kind: str) -> Exporter:
        """This backend, which then gives a check the artefact as it runs later.

        Args:
            kind: what weights become, such as `int8`.

        Raises:
            SettingError: it has no such kind.
        """
        ...
