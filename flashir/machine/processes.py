"""The processes of data-parallel training, as `torchrun --nproc-per-node 2 -m flashir train ..` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from flashir.errors import SettingError


@dataclass(frozen=True)
class Processes:
    """The rank of this process. All processes run the same program; only the first writes and prints.

    Args:
        rank: the rank of this process, from 0.
        count: the number of processes (the world size).
    """

    rank: int = 0
    count: int = 1

    @staticmethod
    def here() -> Processes:
        """Read RANK and WORLD_SIZE from the environment; a single process if they are not set.

        Raises:
            SettingError: they are not integers, or rank >= world size.
        """
        rank, count = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE"))
        if rank is None or count is None:
            return Processes()
        if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
            raise SettingError(
                f"RANK must be a number from 0 and below WORLD_SIZE, got {rank!r} and {count!r}",
                hint="start the processes with torchrun, which sets both; or unset them",
            )
        return Processes(int(rank), int(count))

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0
