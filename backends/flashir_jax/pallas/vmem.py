"""What the kernels for mixed_chunk_attention hold in VMEM, the memory of one core. No JAX here: claims ask as well."""

from __future__ import annotations

LANES = 128
VMEM = 15 * 2**20
"""Bytes: a core of a TPU v4 has 16 MiB, and the compiler keeps something for itself."""


def needed(chunk: int, keys: int, tile: int, itemsize: int) -> int:
    """Bytes that the largest of the kernels, the backward, holds at once.

    Of each block there are two, one in use and one on its way; of the bias, which stays where it is, there is one.

    Args:
        chunk: n.
        keys: s; stored in whole lanes.
        tile: how many columns of e.
        itemsize: bytes of one number of the operands.
    """
    keys = -(-keys // LANES) * LANES
    queries_and_keys, values = 4 * chunk * keys, 3 * chunk * tile  # v, d out, d v
    gradients = 3 * chunk * keys + chunk * chunk  # of quad_q, quad_k, lin_k; of the bias
    state, between = 2 * keys * tile, 2 * chunk * chunk + chunk * tile  # it and its like; scores, d scores, a product
    return itemsize * (2 * queries_and_keys + 2 * values + chunk * chunk) + 4 * (2 * gradients + state + between)


def widest_tile(chunk: int, keys: int, width: int, itemsize: int) -> int:
    """The most columns of e = `width`, in whole lanes and a whole number of times, that fit; 0 where none do.

    The wider, the fewer times are scores computed and queries and keys read: once for each tile.
    """
    tiles = (tile for tile in range(LANES, width + 1, LANES) if width % tile == 0)
    return max((tile for tile in tiles if needed(chunk, keys, tile, itemsize) <= VMEM), default=0)
