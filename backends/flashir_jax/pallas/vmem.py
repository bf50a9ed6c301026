"""The VMEM use of the kernels for mixed_chunk_attention. Works without JAX, for claims."""

from __future__ import annotations

LANES = 128
VMEM = 15 * 2**20
"""Usable bytes: a core of a TPU v4 has 16 MiB, and the compiler reserves some."""


def needed(chunk: int, keys: int, tile: int, itemsize: int) -> int:
    """The VMEM of the largest kernel, the backward pass, in bytes.

    Blocks are double-buffered, except for the bias, which stays in place.

    Args:
        chunk: n.
        keys: s; stored in whole lanes.
        tile: the columns of e.
        itemsize: bytes of one element of the operands.
    """
    keys = -(-keys // LANES) * LANES
    queries_and_keys, values = 4 * chunk * keys, 3 * chunk * tile  # v, d out, d v
    gradients = 3 * chunk * keys + chunk * chunk  # of quad_q, quad_k, lin_k; of the bias
    state, between = (
        2 * keys * tile,
        2 * chunk * chunk + chunk * tile,
    )  # the state and its update; scores, d scores, a product
    return itemsize * (2 * queries_and_keys + 2 * values + chunk * chunk) + 4 * (2 * gradients + state + between)


def widest_tile(chunk: int, keys: int, width: int, itemsize: int) -> int:
    """The largest tile of e = `width` that fits, in whole lanes and dividing the width; 0 if none fits.

    A wider tile is better, because scores are computed and queries and keys are read once per tile.
    """
    tiles = (tile for tile in range(LANES, width + 1, LANES) if width % tile == 0)
    return max((tile for tile in tiles if needed(chunk, keys, tile, itemsize) <= VMEM), default=0)
