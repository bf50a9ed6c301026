"""How large the blocks of a kernel are: powers of two from 16 on, as products want them.

Those for narrow types were the fastest on an H100; the wide ones compile without spilled registers, and leave room for
two programs on each multiprocessor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

LEAST = 16
PROGRAMS = 128
"""As many keep a card busy: an A100 has 108 multiprocessors, an H100 132."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of a kernel, and how it is compiled.

    Args:
        rows, columns: n, m.
        keys: s.
        features: e.
        warps: of 32 threads, that run a program.
        stages: how deep loads are pipelined.
    """

    rows: int
    columns: int
    keys: int
    features: int
    warps: int
    stages: int

    def within(self, chunk: int, keys: int, width: int) -> Blocks:
        """No larger than what they are blocks of."""
        return replace(
            self,
            rows=min(self.rows, chunk),
            columns=min(self.columns, chunk),
            keys=min(self.keys, power_of_two(keys)),
            features=min(self.features, power_of_two(width)),
        )

    def spread(self, batch: int, keys: int, width: int) -> Blocks:
        """Smaller tiles of the state [s, e] where they would be too few to keep a card busy."""
        made = self
        while batch * made.tiles(keys, width) < PROGRAMS and max(made.keys, made.features) > 2 * LEAST:
            if made.features >= made.keys:
                made = replace(made, features=made.features // 2)
            else:
                made = replace(made, keys=made.keys // 2)
        return made

    def tiles(self, keys: int, width: int) -> int:
        """How many of them cover a state [s, e]."""
        return -(-keys // self.keys) * -(-width // self.features)


NARROW = {
    "states": Blocks(rows=128, columns=0, keys=64, features=64, warps=4, stages=3),
    "attend": Blocks(rows=64, columns=32, keys=128, features=256, warps=4, stages=3),
    "score_gradients": Blocks(rows=128, columns=64, keys=128, features=64, warps=4, stages=3),
    "key_gradients": Blocks(rows=128, columns=64, keys=128, features=128, warps=8, stages=3),
}
WIDE = {
    "states": Blocks(rows=32, columns=0, keys=64, features=64, warps=4, stages=3),
    "attend": Blocks(rows=64, columns=32, keys=32, features=64, warps=4, stages=2),
    "score_gradients": Blocks(rows=64, columns=64, keys=32, features=32, warps=8, stages=2),
    "key_gradients": Blocks(rows=32, columns=32, keys=128, features=32, warps=4, stages=2),
}


def power_of_two(size: int) -> int:
    """The least block that holds so many."""
    return max(LEAST, 1 << (size - 1).bit_length())
