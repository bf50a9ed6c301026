"""The device mesh of training, from the environment. Works without JAX, for plans."""

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
    """The number of devices along each mesh axis.

    Args:
        data: data parallel: each device has its own rows and all parameters.
        shards: sharded data parallel: each device has its own rows and a part of every parameter.
        sequence: sequence parallel: each device has a part of every row.
    """

    data: int = 1
    shards: int = 1
    sequence: int = 1

    @staticmethod
    def here() -> Axes | None:
        """Read FLASHIR_MESH, such as `data=2,shards=4`. An axis that is not given has size 1.

        None if it is not set: a single process then uses one device, several processes shard over all their devices.

        Raises:
            SettingError: an axis or a number of devices is invalid.
        """
        text = os.environ.get(NAME)
        if text is None:
            return None
        entries = [part.strip().partition("=") for part in text.split(",")]
        names = [name for name, _, _ in entries]
        counted = all(re.fullmatch("[1-9][0-9]{0,5}", count) for _, _, count in entries)
        if not counted or len(set(names)) < len(names) or not set(names) <= set(AXES):
            raise SettingError(
                f"{NAME} must give axes among {', '.join(AXES)}, each once, with numbers of devices, got {text!r}",
                hint=f"such as {NAME}=data=2,shards=4",
            )
        return Axes(**{name: int(count) for name, _, count in entries})

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The sizes in the order of `AXES`."""
        return self.data, self.shards, self.sequence


def is_spread() -> bool:
    """Whether more than one device trains one model."""
    return Processes.here().count > 1 or Axes.here() not in (None, Axes())


def cuts_sequences() -> bool:
    """Whether rows are sharded over several devices."""
    axes = Axes.here()
    return axes is not None and axes.sequence > 1
