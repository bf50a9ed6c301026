"""The block sizes of the kernels: powers of two from 16 on, as products require.

The blocks for narrow dtypes were the fastest on an H100. Those for float32 compile without register spills, and allow
two programs per multiprocessor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

LEAST = 16
ALIGNED = 8
"""Rows of so many narrow numbers begin at multiples of 16 bytes."""
PROGRAMS = 128
"""Enough programs to fill a GPU: an A100 has 108 multiprocessors, an H100 132."""
WALKS = 512
"""Twice as many programs of `states` as an H100 runs at a time."""
ACTIVE_WARPS = 8
"""The warps of `states` where it makes silu of v too: fewer have too few registers."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of a kernel, and its compile options.

    Args:
        rows, columns: n, m.
        keys: s.
        features: e.
        warps: warps per program.
        stages: the depth of the load pipeline.
        segment: the fewest tokens of a segment in `states`, for a walk begins with the totals of those before it.
    """

    rows: int
    columns: int
    keys: int
    features: int
    warps: int
    stages: int
    segment: int = 2048

    def within(self, chunk: int, keys: int, width: int) -> Blocks:
        """The blocks, limited to the sizes of the operands.

        Rows that are not aligned are loaded through registers, so then a tile of e is half as wide.
        """
        features = self.features if width % ALIGNED == 0 else max(min(self.features, LEAST), self.features // 2)
        return replace(
            self,
            rows=min(self.rows, chunk),
            columns=min(self.columns, chunk),
            keys=min(self.keys, power_of_two(keys)),
            features=min(features, power_of_two(width)),
        )

    def walks(self, batch: int, length: int, chunk: int, keys: int, width: int) -> tuple[Blocks, int]:
        """Tiles of the state [s, e], and how many chunks a program walks over, so that programs fill a GPU.

        If whole rows are too few, they are cut into segments, in two passes. Short rows have smaller tiles instead.
        """
        chunks, rows = -(-length // chunk), batch * self.tiles(keys, width)
        segments = min(-(-WALKS // rows), length // self.segment)
        if rows < PROGRAMS <= rows * segments:
            return self, -(-chunks // segments)
        return self.spread(batch, keys, width), chunks

    def spread(self, batch: int, keys: int, width: int) -> Blocks:
        """Smaller tiles of the state [s, e], if there would be too few to fill a GPU."""
        blocks = self
        while batch * blocks.tiles(keys, width) < PROGRAMS and max(blocks.keys, blocks.features) > 2 * LEAST:
            if blocks.features >= blocks.keys:
                blocks = replace(blocks, features=blocks.features // 2)
            else:
                blocks = replace(blocks, keys=blocks.keys // 2)
        return blocks

    def tiles(self, keys: int, width: int) -> int:
        """The number of tiles of a state [s, e]."""
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
HALF = {**NARROW, "attend": Blocks(rows=64, columns=32, keys=128, features=128, warps=4, stages=3)}
"""For float16: squares of scores exceed its range, so `attend` needs a second accumulator."""
GATED = {
    "heads": Blocks(rows=16, columns=0, keys=128, features=0, warps=4, stages=1),
    "squares": Blocks(rows=128, columns=128, keys=128, features=0, warps=8, stages=2),
    "attend": Blocks(rows=128, columns=64, keys=128, features=128, warps=8, stages=2),
    "gate_back": Blocks(rows=64, columns=0, keys=0, features=512, warps=4, stages=1),
    "attend_back": Blocks(rows=128, columns=64, keys=128, features=128, warps=8, stages=2),
    "rows_back": Blocks(rows=64, columns=0, keys=128, features=64, warps=8, stages=2),
    "heads_back": Blocks(rows=64, columns=64, keys=128, features=0, warps=8, stages=2),
}
"""For gated_mixed_attention in bfloat16: chosen by what compiles for 9.0 with the fewest spills, not yet timed."""

HOPPER = (9, 0)
ROOMY = (9, 10)
"""The generations (9.0, 10.0) with 227 KiB of shared memory a program, and products of whole warp groups, 64 rows each.
Others have 99 KiB (8.6, 8.9, 12.0) or 163 KiB (8.0), and products of single warps."""
MOST_ELSEWHERE: Mapping[str, Mapping[str, int]] = {"key_gradients": {"features": 64}, "heads_back": {"rows": 32}}
"""The largest blocks on other generations: wider, the first takes 128 KiB; higher, the second spills 208 bytes."""


def blocks_of(table: Mapping[str, Blocks], kernel: str, capability: tuple[int, int]) -> Blocks:
    """The blocks of a kernel on a GPU of this compute capability."""
    blocks = table[kernel]
    if capability[0] in ROOMY:
        return blocks
    sides = MOST_ELSEWHERE.get(kernel, {}).items()
    return replace(blocks, **{side: min(getattr(blocks, side), most) for side, most in sides})


def power_of_two(size: int) -> int:
    """The smallest block that holds this size."""
    return max(LEAST, 1 << (size - 1).bit_length())
