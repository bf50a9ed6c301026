"""Several processes that train one model together, as `torchrun --nproc-per-node 2 -m flashir train ..` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from flashir.errors import SettingError


@dataclass(frozen=True)
class Processes:
    """Which of the processes this one is. All run the same program; the first alone writes and prints.

    Args:
        rank: its number, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @staticmethod
    def here() -> Processes:
        """From RANK and WORLD_SIZE in the environment; without them, one alone.

        Raises:
            SettingError: they are no numbers, or the rank is none of so many.
        """
        rank, count = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE"))
        if rank is None or count is None:
            return Processes()
        if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
            raise SettingError(
                f"RANK must be a number from 0 and below WORLD_SIZE, got {rank!r} and {count!r}",
                hint="start processes by torchrun, which sets both; or unset them",
            )
        return Processes(int(rank), int(count))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0
