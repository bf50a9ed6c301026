"""The kernels of gated_mixed_attention beside `states`: what a layer computes between its two products.

Axes: b batch, t length, g chunks, n and m positions within a chunk, s key, e expanded. Rows may be strided,
elements may not. Out-of-range elements read as zero, so lengths need no padding. Products are accumulated in float32.
u, v and z are parts of the first product; each kernel that reads one adds its part of the bias of the layer, `shift`,
and each that writes its gradient sums that gradient over some rows, for the gradient of the bias.

    heads        silu, scale and shift, and rotation of z               [b, t, s] four times
    squares      relu2(q k^T + bias) within chunks, 0 where masked      [b, g, n, m]
    attend       (squares v + linear state) times silu(u)               [b, t, e]
    gate_back    d_gated -> d_attended and d_u                          [b, t, e] twice
    attend_back  squares^T d_attended + linear state, times silu'       d_v [b, t, e], and silu(v) again
    rows_back    products with d_attended: d_scores, d_quad_q, d_lin_q, d_lin_k
    heads_back   d_quad_k, then all four heads back to d_z, d_gamma and d_beta
"""

from __future__ import annotations

import triton
import triton.language as tl

from flashir_torch.kernels.bodies import block_of, product, row_of, silu, tile_of

FAINTEST = tl.constexpr(1e-30)
"""The smallest gate: a gated number divided by its gate is what was gated, as exact as bfloat16 is."""

AT_ONCE = tl.constexpr(4)
"""The rows that `gate_back` reads at once."""


@triton.jit
def heads(
    z: tl.tensor, shift: tl.tensor, gamma: tl.tensor, beta: tl.tensor, sin: tl.tensor, cos: tl.tensor, out: tl.tensor,
    length: tl.tensor, scale: tl.tensor, z_batch: tl.tensor, z_row: tl.tensor, total: tl.tensor,
    keys: tl.constexpr, rows: tl.constexpr,
) -> None:  # fmt: skip
    """One program makes some rows of all heads; the first, quad_q, is scaled. gamma [4, s], sin [t, s / 2]."""
    half: tl.constexpr = keys // 2
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    s = tl.arange(0, half)
    inside = (row[:, None] < total) & (s[None, :] < half)
    at = z + (row // length * z_batch + row % length * z_row)[:, None] + s[None, :]
    one, _ = silu(_at(at, inside) + _wide(shift + s))
    two, _ = silu(_at(at + half, inside) + _wide(shift + half + s))
    angle = (row % length)[:, None] * half + s[None, :]
    sines, cosines = tl.load(sin + angle, mask=inside, other=0.0), tl.load(cos + angle, mask=inside, other=0.0)
    for head in tl.static_range(4):
        own = head * keys + s
        first = one * _wide(gamma + own) + _wide(beta + own)
        second = two * _wide(gamma + own + half) + _wide(beta + own + half)
        factor = scale if head == 0 else 1.0
        to = out + head * total * keys + row[:, None] * keys + s[None, :]
        tl.store(to, (factor * (first * cosines - second * sines)).to(out.dtype.element_ty), mask=inside)
        tl.store(to + half, (factor * (second * cosines + first * sines)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def squares(
    q: tl.tensor, k: tl.tensor, bias: tl.tensor, out: tl.tensor, length: tl.tensor, chunks: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
) -> None:  # fmt: skip
    """One block of one chunk. Squares are stored, so that `attend` is as exact as if it had computed them itself."""
    across: tl.constexpr = chunk // columns
    program = tl.program_id(0)
    place = (program // (across * (chunk // rows))).to(tl.int64)
    first = program // across % (chunk // rows) * rows
    n = first + tl.arange(0, rows)
    m = program % across * columns + tl.arange(0, columns)
    s = tl.arange(0, keys)
    start = place // chunks * length + place % chunks * chunk
    left = tl.minimum(length - place % chunks * chunk, chunk).to(tl.int32)
    scores = tl.zeros((rows, columns), tl.float32)
    if program % across * columns < first + rows:
        k_block = block_of(k + start * keys, keys, m, s, left, keys)
        scores = product(block_of(q + start * keys, keys, n, s, left, keys), tl.trans(k_block), scores)
        scores = tl.maximum(scores + tl.load(bias + n[:, None] * chunk + m[None, :]).to(tl.float32), 0.0)
        scores = tl.where((m[None, :] <= n[:, None]) & (n[:, None] < left), scores, 0.0)
    to = out + place * chunk * chunk + n[:, None] * chunk + m[None, :]
    tl.store(to, (scores * scores).to(out.dtype.element_ty))


@triton.jit
def _linear_part(
    linear: tl.tensor, state: tl.tensor, place: tl.tensor, start: tl.tensor, left: tl.tensor, n: tl.tensor,
    e: tl.tensor, keys: tl.constexpr, width: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """linear state, float32 [n, e], of the chunk at `place`, whose `left` tokens begin at row `start`."""
    s = tl.arange(0, keys)
    linear_block = block_of(linear + start * keys, keys, n, s, left, keys)
    state_block = block_of(state + place * keys * width, width, s, e, keys, width)
    return product(linear_block, state_block, tl.zeros((n.shape[0], e.shape[0]), tl.float32))


@triton.jit
def attend(
    weights: tl.tensor, linear: tl.tensor, v: tl.tensor, state: tl.tensor, u: tl.tensor, shift: tl.tensor,
    gated: tl.tensor, length: tl.tensor, chunks: tl.tensor, u_batch: tl.tensor, u_row: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, width: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """One program makes a block of rows of a chunk, a tile of e wide. What is gated is not stored, see `_gate`."""
    place, first, n, e = tile_of(chunk, rows, width, features)
    b, since = place // chunks, place % chunks * chunk
    left = tl.minimum(length - since, chunk).to(tl.int32)
    start = b * length + since
    total = _linear_part(linear, state, place, start, left, n, e, keys, width)
    weights += place * chunk * chunk
    for column in range(0, tl.minimum(left, first + rows), columns):
        m = column + tl.arange(0, columns)
        block = tl.load(weights + n[:, None] * chunk + m[None, :])
        total = product(block, block_of(v + start * width, width, m, e, left, width), total)
    u_block = block_of(u + b * u_batch + since * u_row, u_row, n, e, left, width).to(tl.float32)
    gate, _ = _gate(u_block + row_of(shift, e, width))
    inside = (n[:, None] < left) & (e[None, :] < width)
    at = start * width + n[:, None] * width + e[None, :]
    tl.store(gated + at, (gate * total).to(gated.dtype.element_ty), mask=inside)


@triton.jit
def gate_back(
    d_gated: tl.tensor, u: tl.tensor, shift: tl.tensor, gated: tl.tensor, d_attended: tl.tensor, d_u: tl.tensor,
    sums: tl.tensor, length: tl.tensor, total: tl.tensor, u_batch: tl.tensor, u_row: tl.tensor, d_row: tl.tensor,
    width: tl.constexpr, rows: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """One program reads some rows of d_gated [b, t, e], a tile of e wide, for both sides of the gate."""
    tiles: tl.constexpr = (width + features - 1) // features
    program = tl.program_id(0)
    e = program % tiles * features + tl.arange(0, features)
    block = (program // tiles).to(tl.int64)
    own_shift = row_of(shift, e, width)
    summed = tl.zeros((AT_ONCE, features), tl.float32)
    for first in range(0, rows, AT_ONCE):
        row = block * rows + first + tl.arange(0, AT_ONCE)
        inside = (row[:, None] < total) & (e[None, :] < width)
        at = row[:, None] * width + e[None, :]
        gradient = _at(d_gated + at, inside)
        own = (row // length * u_batch + row % length * u_row)[:, None] + e[None, :]
        gate, slope = _gate(_at(u + own, inside) + own_shift)
        tl.store(d_attended + at, (gradient * gate).to(d_attended.dtype.element_ty), mask=inside)
        gradient *= slope * (_at(gated + at, inside) / gate)
        tl.store(d_u + row[:, None] * d_row + e[None, :], gradient.to(d_u.dtype.element_ty), mask=inside)
        summed += gradient
    tl.store(sums + block * width + e, tl.sum(summed, 0), mask=e < width)


@triton.jit
def attend_back(
    weights: tl.tensor, linear: tl.tensor, x: tl.tensor, state: tl.tensor, v: tl.tensor, shift: tl.tensor,
    d_v: tl.tensor, active: tl.tensor, sums: tl.tensor,
    length: tl.tensor, chunks: tl.tensor, v_batch: tl.tensor, v_row: tl.tensor, d_row: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, width: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """As `attend`, mirrored: weights are read turned, x is the gradient by what was attended, v is before its silu.

    active [b, t, e] is v after its silu, which is not kept from the forward pass.
    """
    place, first, n, e = tile_of(chunk, rows, width, features)
    b, since = place // chunks, place % chunks * chunk
    left = tl.minimum(length - since, chunk).to(tl.int32)
    start = b * length + since
    total = _linear_part(linear, state, place, start, left, n, e, keys, width)
    weights += place * chunk * chunk
    for column in range(first // columns * columns, left, columns):
        m = column + tl.arange(0, columns)
        block = tl.load(weights + n[:, None] + m[None, :] * chunk)
        total = product(block, block_of(x + start * width, width, m, e, left, width), total)
    v_block = block_of(v + b * v_batch + since * v_row, v_row, n, e, left, width).to(tl.float32)
    again, slope = silu(v_block + row_of(shift, e, width))
    inside = (n[:, None] < left) & (e[None, :] < width)
    to = active + start * width + n[:, None] * width + e[None, :]
    tl.store(to, again.to(active.dtype.element_ty), mask=inside)
    total *= slope
    to = d_v + start * d_row + n[:, None] * d_row + e[None, :]
    tl.store(to, total.to(d_v.dtype.element_ty), mask=inside)
    tl.store(sums + (place * (chunk // rows) + first // rows) * width + e, tl.sum(total, 0), mask=e < width)


@triton.jit
def rows_back(
    weights: tl.tensor, k: tl.tensor, x: tl.tensor, v: tl.tensor, state: tl.tensor, d_state: tl.tensor,
    d_quad_q: tl.tensor, d_lin_q: tl.tensor, d_lin_k: tl.tensor, d_scores: tl.tensor,
    length: tl.tensor, chunks: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, width: tl.constexpr, rows: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """One program makes a block of rows of a chunk, as wide as it sees; later rows take longer, so they come first."""
    blocks: tl.constexpr = chunk // rows
    program = tl.program_id(0)
    place = (program // blocks).to(tl.int64)
    block = blocks - 1 - program % blocks
    since = place % chunks * chunk
    left = tl.minimum(length - since, chunk).to(tl.int32)
    start = place // chunks * length + since
    first = block * rows
    weights += place * chunk * chunk
    d_scores += place * chunk * chunk
    k += start * keys
    x += start * width
    v += start * width
    state += place * keys * width
    d_state += place * keys * width
    d_quad_q += start * keys
    d_lin_q += start * keys
    d_lin_k += start * keys
    if block == 0:
        _rows_back(weights, k, x, v, state, d_state, d_quad_q, d_lin_q, d_lin_k, d_scores,
                   first, left, chunk, keys, width, rows, rows, features)  # fmt: skip
    elif block == 1:
        _rows_back(weights, k, x, v, state, d_state, d_quad_q, d_lin_q, d_lin_k, d_scores,
                   first, left, chunk, keys, width, rows, 2 * rows, features)  # fmt: skip
    else:
        _rows_back(weights, k, x, v, state, d_state, d_quad_q, d_lin_q, d_lin_k, d_scores,
                   first, left, chunk, keys, width, rows, 4 * rows, features)  # fmt: skip


@triton.jit
def _rows_back(
    weights: tl.tensor, k: tl.tensor, x: tl.tensor, v: tl.tensor, state: tl.tensor, d_state: tl.tensor,
    d_quad_q: tl.tensor, d_lin_q: tl.tensor, d_lin_k: tl.tensor, d_scores: tl.tensor,
    first: tl.tensor, left: tl.tensor, chunk: tl.constexpr, keys: tl.constexpr, width: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """d_scores = 2 relu(scores) (x v^T), of the first columns alone; the relu is the root of the stored square."""
    n = first + tl.arange(0, rows)
    m = tl.arange(0, columns)
    s = tl.arange(0, keys)
    by_scores = tl.zeros((rows, columns), tl.float32)
    by_lin_q = tl.zeros((rows, keys), tl.float32)
    by_lin_k = tl.zeros((rows, keys), tl.float32)
    for feature in range(0, width, features):
        e = feature + tl.arange(0, features)
        x_block = block_of(x, width, n, e, left, width)
        by_scores = product(x_block, tl.trans(block_of(v, width, m, e, left, width)), by_scores)
        by_lin_q = product(x_block, tl.trans(block_of(state, width, s, e, keys, width)), by_lin_q)
        v_block = block_of(v, width, n, e, left, width)
        by_lin_k = product(v_block, tl.trans(block_of(d_state, width, s, e, keys, width)), by_lin_k)
    inside = (n[:, None] < left) & (s[None, :] < keys)
    at = n[:, None] * keys + s[None, :]
    tl.store(d_lin_q + at, by_lin_q.to(d_lin_q.dtype.element_ty), mask=inside)
    tl.store(d_lin_k + at, by_lin_k.to(d_lin_k.dtype.element_ty), mask=inside)
    place = n[:, None] * chunk + m[None, :]
    gradient = 2.0 * tl.sqrt(tl.load(weights + place).to(tl.float32)) * by_scores
    narrow = gradient.to(d_scores.dtype.element_ty)
    tl.store(d_scores + place, narrow)
    for column in range(columns, chunk, rows):  # what no row of this block sees
        unseen = n[:, None] * chunk + column + tl.arange(0, rows)[None, :]
        tl.store(d_scores + unseen, tl.zeros((rows, rows), d_scores.dtype.element_ty))
    by_quad_q = product(narrow, block_of(k, keys, m, s, left, keys), tl.zeros((rows, keys), tl.float32))
    tl.store(d_quad_q + at, by_quad_q.to(d_quad_q.dtype.element_ty), mask=inside)


@triton.jit
def heads_back(
    d_scores: tl.tensor, q: tl.tensor, d_quad_q: tl.tensor, d_lin_q: tl.tensor, d_lin_k: tl.tensor,
    z: tl.tensor, shift: tl.tensor, gamma: tl.tensor, sin: tl.tensor, cos: tl.tensor, d_z: tl.tensor, sums: tl.tensor,
    length: tl.tensor, chunks: tl.tensor, scale: tl.tensor, z_batch: tl.tensor, z_row: tl.tensor, d_row: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
) -> None:  # fmt: skip
    """One program makes a block of rows of a chunk. sums [programs, 9, s] are its parts of d_gamma, d_beta and d_z."""
    half: tl.constexpr = keys // 2
    program = tl.program_id(0)
    place = (program // (chunk // rows)).to(tl.int64)
    first = program % (chunk // rows) * rows
    n = first + tl.arange(0, rows)
    s = tl.arange(0, half)
    b, since = place // chunks, place % chunks * chunk
    left = tl.minimum(length - since, chunk).to(tl.int32)
    start = (b * length + since) * keys
    d_scores += place * chunk * chunk
    k_one = tl.zeros((rows, half), tl.float32)
    k_two = tl.zeros((rows, half), tl.float32)
    for column in range(first // columns * columns, left, columns):
        m = column + tl.arange(0, columns)
        weights = tl.load(d_scores + n[:, None] + m[None, :] * chunk)
        k_one = product(weights, block_of(q + start, keys, m, s, left, half), k_one)
        k_two = product(weights, block_of(q + start + half, keys, m, s, left, half), k_two)
    inside = (n[:, None] < left) & (s[None, :] < half)
    own = z + b * z_batch + since * z_row + n[:, None] * z_row + s[None, :]
    one, slope_one = silu(_at(own, inside) + _wide(shift + s))
    two, slope_two = silu(_at(own + half, inside) + _wide(shift + half + s))
    angle = (since + n)[:, None] * half + s[None, :]
    sines, cosines = tl.load(sin + angle, mask=inside, other=0.0), tl.load(cos + angle, mask=inside, other=0.0)
    d_one = tl.zeros((rows, half), tl.float32)
    d_two = tl.zeros((rows, half), tl.float32)
    at = start + n[:, None] * keys + s[None, :]
    sums += program.to(tl.int64) * 9 * keys
    for head in tl.static_range(4):
        if head == 0:
            a, c = scale * _at(d_quad_q + at, inside), scale * _at(d_quad_q + at + half, inside)
        elif head == 1:
            a, c = tl.where(inside, k_one, 0.0), tl.where(inside, k_two, 0.0)
        elif head == 2:
            a, c = _at(d_lin_q + at, inside), _at(d_lin_q + at + half, inside)
        else:
            a, c = _at(d_lin_k + at, inside), _at(d_lin_k + at + half, inside)
        back_one, back_two = a * cosines + c * sines, c * cosines - a * sines
        d_one += back_one * _wide(gamma + head * keys + s)
        d_two += back_two * _wide(gamma + head * keys + half + s)
        tl.store(sums + head * keys + s, tl.sum(back_one * one, 0))
        tl.store(sums + head * keys + half + s, tl.sum(back_two * two, 0))
        tl.store(sums + (4 + head) * keys + s, tl.sum(back_one, 0))
        tl.store(sums + (4 + head) * keys + half + s, tl.sum(back_two, 0))
    to = d_z + (b * length + since) * d_row + n[:, None] * d_row + s[None, :]
    d_one *= slope_one
    d_two *= slope_two
    tl.store(to, d_one.to(d_z.dtype.element_ty), mask=inside)
    tl.store(to + half, d_two.to(d_z.dtype.element_ty), mask=inside)
    tl.store(sums + 8 * keys + s, tl.sum(d_one, 0))
    tl.store(sums + 8 * keys + half + s, tl.sum(d_two, 0))


@triton.jit
def _gate(u: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """silu and its derivative; silu is kept from 0, so that what it gates can be had back from the result."""
    gate, slope = silu(u)
    return tl.where(tl.abs(gate) < FAINTEST, FAINTEST, gate), slope


@triton.jit
def _wide(vector: tl.tensor) -> tl.tensor:
    """A row of float32 at these places."""
    return tl.load(vector).to(tl.float32)[None, :]


@triton.jit
def _at(x: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """float32 at these places, 0 outside."""
    return tl.load(x, mask=inside, other=0.0).to(tl.float32)
