"""The mesh of devices that a model is trained on, as the environment names it. No JAX here: a plan asks as well."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from flashir.errors import SettingError
from flashir.machine.processes import Processes

NAME = "FLASHIR_MESH"
DATA, SHARDS, SEQUENCE = AXES = ("data", "shards", "sequence")


@dataclass(frozen=True)
class Axes:
    """How many devices stand along each axis.

    Args:
        data: each has rows of its own, and all parameters.
        shards: each has rows of its own, and a part of every parameter.
        sequence: each has a part of every row.
    """

    data: int = 1
    shards: int = 1
    sequence: int = 1

    @staticmethod
    def here() -> Axes | None:
        """From FLASHIR_MESH, such as `data=2,shards=4`; an axis that it leaves out has one device.

        None where it is not set: one process alone then takes one device, several shard over all that they have.

        Raises:
            SettingError: it names no axes, or no numbers of devices.
        """
        text = os.environ.get(NAME)
        if text is None:
            return None
        given = [part.strip().partition("=") for part in text.split(",")]
        names = [name for name, _, _ in given]
        counted = all(re.fullmatch("[1-9][0-9]{0,5}", count) for _, _, count in given)
        if not counted or len(set(names)) < len(names) or not set(names) <= set(AXES):
            raise SettingError(
                f"{NAME} must name axes among {', '.join(AXES)}, each once, and devices along them, got {text!r}",
                hint=f"such as {NAME}=data=2,shards=4",
            )
        return Axes(**{name: int(count) for name, _, count in given})

    @property
    def sizes(self) -> tuple[int, int, int]:
        """In the order of `AXES`."""
        return self.data, self.shards, self.sequence


def is_spread() -> bool:
    """Whether more than one device trains one model."""
    return Processes.here().count > 1 or Axes.here() not in (None, Axes())


def cuts_sequences() -> bool:
    """Whether a row lies in parts on several devices."""
    axes = Axes.here()
    return axes is not None and axes.sequence > 1
