"""The kernels of mixed_chunk_attention (Code 8), forward and backward. Most have a mirrored variant.

Axes: b batch, t length, g chunks, n and m positions within a chunk, s key, e expanded. Rows of operands may be strided,
elements of a row may not. Out-of-range elements read as zero and add nothing, so lengths need no padding. Products are
accumulated in float32. The grid has one axis, because the others are limited to 65535.

    states            sum of k^T v over the chunks before each, or after each       [b, g, s, e]
    attend            relu2(q k^T + bias) x within chunks, plus linear state        [b, t, e]
    score_gradients   of a loss by the scores within chunks                         [b, g, n, m]
    key_gradients     weights y within chunks, plus x state^T                       [b, t, s] twice
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(not isinstance(tl.zeros, triton.JITFunction))
"""Triton's interpreter multiplies bfloat16 as integers, so operands are widened there, which changes nothing."""


@triton.jit
def states(
    k: tl.tensor, v: tl.tensor, shift: tl.tensor, active: tl.tensor, totals: tl.tensor, out: tl.tensor,
    length: tl.tensor, chunks: tl.tensor, segments: tl.tensor, span: tl.tensor, scale: tl.tensor,
    k_batch: tl.tensor, k_row: tl.tensor, v_batch: tl.tensor, v_row: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, width: tl.constexpr, causal: tl.constexpr, mean: tl.constexpr,
    reverse: tl.constexpr, activate: tl.constexpr, totalling: tl.constexpr,
    rows: tl.constexpr, key_block: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """One program walks over a segment, `span` chunks, and carries a tile of the state in registers, in float32.

    What it stores is what the products read: weighted, in their type. `mean` divides by the number of chunks seen,
    which is g; in `reverse` that is a matter of the chunk that is added, else of the sum. With `activate` it sums
    silu(v + shift), and stores that as `active` [b, t, e]; else these two are not read.

    A row of one segment is one walk. Of several, the first pass is `totalling`: out [b, segments, s, e] is the sum of
    each. A second walks on from the totals of the segments before its own, or after it in `reverse`.
    """
    tiles: tl.constexpr = (width + features - 1) // features
    key_tiles: tl.constexpr = (keys + key_block - 1) // key_block
    blocks: tl.constexpr = chunk // rows
    program = tl.program_id(0)
    row = program // (tiles * key_tiles)
    b = (row // segments).to(tl.int64)
    segment = row % segments
    s = program // tiles % key_tiles * key_block + tl.arange(0, key_block)
    e = program % tiles * features + tl.arange(0, features)
    k += b * k_batch
    v += b * v_batch
    out += keys * width * (row.to(tl.int64) if totalling else b * chunks if causal else b)
    own = s[:, None] * width + e[None, :]
    inside = (s[:, None] < keys) & (e[None, :] < width)
    state = tl.zeros((key_block, features), tl.float32)
    if not totalling:
        for other in range(segment + 1 if reverse else 0, segments if reverse else segment):
            state += tl.load(totals + (b * segments + other) * keys * width + own, mask=inside, other=0.0)
    begin = segment * span * blocks
    end = tl.minimum(begin + span * blocks, chunks * blocks)
    for step in range(end - begin):
        place = end - 1 - step if reverse else begin + step
        g = place // blocks
        weight = scale / tl.maximum(g, 1).to(tl.float32) if mean else scale
        if causal and not totalling:  # noqa: SIM102 - this is known when it is compiled, the other is not
            if step % blocks == 0:
                at = out + g.to(tl.int64) * keys * width + own
                tl.store(at, (state if reverse else weight * state).to(out.dtype.element_ty), mask=inside)
        first = (place * rows).to(tl.int64)
        k_block = block_of(k + first * k_row, k_row, tl.arange(0, rows), s, length - first, keys)
        n = tl.arange(0, rows)
        v_block = block_of(v + first * v_row, v_row, n, e, length - first, width)
        if activate:
            wide, _ = silu(v_block.to(tl.float32) + row_of(shift, e, width))
            v_block = wide.to(v.dtype.element_ty)
            if program // tiles % key_tiles == 0:
                to = active + (b * length + first) * width + n[:, None] * width + e[None, :]
                tl.store(to, v_block, mask=(n[:, None] < length - first) & (e[None, :] < width))
        added = product(tl.trans(k_block), v_block, tl.zeros_like(state))
        state += weight * added if reverse else added
    if totalling:
        tl.store(out + own, state, mask=inside)
    elif not causal:
        tl.store(out + own, (scale * state).to(out.dtype.element_ty), mask=inside)


@triton.jit
def tile_of(
    chunk: tl.constexpr, rows: tl.constexpr, width: tl.constexpr, features: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """The part of a program that makes a block of rows of a chunk, a tile of e wide: chunk, first row, rows, e."""
    tiles: tl.constexpr = (width + features - 1) // features
    program = tl.program_id(0)
    place = (program // (tiles * (chunk // rows))).to(tl.int64)
    first = program // tiles % (chunk // rows) * rows
    return place, first, first + tl.arange(0, rows), program % tiles * features + tl.arange(0, features)


@triton.jit
def attend(
    q: tl.tensor, k: tl.tensor, linear: tl.tensor, x: tl.tensor, bias: tl.tensor, state: tl.tensor, out: tl.tensor,
    length: tl.tensor, chunks: tl.tensor, q_batch: tl.tensor, q_row: tl.tensor, k_batch: tl.tensor, k_row: tl.tensor,
    linear_batch: tl.tensor, linear_row: tl.tensor, x_batch: tl.tensor, x_row: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, width: tl.constexpr, causal: tl.constexpr, mirrored: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, key_block: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """One program makes a block of rows of a chunk, a tile of e wide.

    As it is, q are queries and k keys; a row sees columns up to its own. Mirrored, for the gradient by v, q are keys
    and k queries, bias [m, n] is turned; a row sees columns from its own on.
    """
    place, first, n, e = tile_of(chunk, rows, width, features)
    b = place // chunks
    start = place % chunks * chunk
    left = tl.minimum(length - start, chunk).to(tl.int32)
    k += b * k_batch + start * k_row
    x += b * x_batch + start * x_row
    state += (place if causal else b) * keys * width
    total = tl.zeros((rows, features), tl.float32)
    q += b * q_batch + start * q_row
    held = block_of(q, q_row, n, tl.arange(0, key_block), left, keys)
    begin = first // columns * columns if causal and mirrored else 0
    end = tl.minimum(left, first + rows) if causal and not mirrored else left
    for column in range(begin, end, columns):
        m = column + tl.arange(0, columns)
        scores = _scores(held, q, q_row, k, k_row, bias, n, m, left, chunk, keys, causal, mirrored, key_block)
        x_block = block_of(x, x_row, m, e, left, width)
        total = _squares_times(scores, x_block, total)
    linear += b * linear_batch + start * linear_row
    for key in range(0, keys, key_block):
        s = key + tl.arange(0, key_block)
        linear_block = block_of(linear, linear_row, n, s, left, keys)
        total = product(linear_block, block_of(state, width, s, e, keys, width), total)
    at = out + (b * length + start) * width + n[:, None] * width + e[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(n[:, None] < left) & (e[None, :] < width))


@triton.jit
def score_gradients(
    q: tl.tensor, k: tl.tensor, x: tl.tensor, v: tl.tensor, bias: tl.tensor, out: tl.tensor,
    length: tl.tensor, chunks: tl.tensor, q_batch: tl.tensor, q_row: tl.tensor, k_batch: tl.tensor, k_row: tl.tensor,
    x_batch: tl.tensor, x_row: tl.tensor, v_batch: tl.tensor, v_row: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, width: tl.constexpr, causal: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, key_block: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """2 relu(q k^T + bias) (x v^T), x the gradient by the result: one block of one chunk; zeros where it is masked."""
    across: tl.constexpr = chunk // columns
    program = tl.program_id(0)
    place = (program // (across * (chunk // rows))).to(tl.int64)
    n = program // across % (chunk // rows) * rows + tl.arange(0, rows)
    m = program % across * columns + tl.arange(0, columns)
    b = place // chunks
    start = place % chunks * chunk
    left = tl.minimum(length - start, chunk).to(tl.int32)
    q += b * q_batch + start * q_row
    k += b * k_batch + start * k_row
    x += b * x_batch + start * x_row
    v += b * v_batch + start * v_row
    below = program % across * columns < (program // across % (chunk // rows) + 1) * rows
    total = tl.zeros((rows, columns), tl.float32)
    for feature in range(0, tl.where(below, width, 0) if causal else width, features):
        e = feature + tl.arange(0, features)
        x_block = block_of(x, x_row, n, e, left, width)
        total = product(x_block, tl.trans(block_of(v, v_row, m, e, left, width)), total)
    held = block_of(q, q_row, n, tl.arange(0, key_block), left, keys)
    total *= 2.0 * _scores(held, q, q_row, k, k_row, bias, n, m, left, chunk, keys, causal, False, key_block)
    tl.store(out + place * chunk * chunk + n[:, None] * chunk + m[None, :], total.to(out.dtype.element_ty))


@triton.jit
def key_gradients(
    weights: tl.tensor, y: tl.tensor, x: tl.tensor, state: tl.tensor, d_quad: tl.tensor, d_linear: tl.tensor,
    length: tl.tensor, chunks: tl.tensor, weights_row: tl.tensor, weights_column: tl.tensor,
    y_batch: tl.tensor, y_row: tl.tensor, x_batch: tl.tensor, x_row: tl.tensor,
    chunk: tl.constexpr, keys: tl.constexpr, width: tl.constexpr, causal: tl.constexpr, mirrored: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, key_block: tl.constexpr, features: tl.constexpr,
) -> None:  # fmt: skip
    """By queries, one block of rows of a chunk; mirrored, by keys: then `weights` is read turned."""
    program = tl.program_id(0)
    place = (program // (chunk // rows)).to(tl.int64)
    first = program % (chunk // rows) * rows
    n = first + tl.arange(0, rows)
    s = tl.arange(0, key_block)
    b = place // chunks
    start = place % chunks * chunk
    left = tl.minimum(length - start, chunk).to(tl.int32)
    weights += place * chunk * chunk
    y += b * y_batch + start * y_row
    x += b * x_batch + start * x_row
    state += (place if causal else b) * keys * width
    inside = (n[:, None] < left) & (s[None, :] < keys)
    at = (b * length + start) * keys + n[:, None] * keys + s[None, :]
    total = tl.zeros((rows, key_block), tl.float32)
    begin = first // columns * columns if causal and mirrored else 0
    end = tl.minimum(left, first + rows) if causal and not mirrored else left
    for column in range(begin, end, columns):
        m = column + tl.arange(0, columns)
        block = tl.load(weights + n[:, None] * weights_row + m[None, :] * weights_column)
        total = product(block, block_of(y, y_row, m, s, left, keys), total)
    tl.store(d_quad + at, total.to(d_quad.dtype.element_ty), mask=inside)
    total = tl.zeros((rows, key_block), tl.float32)
    for feature in range(0, width, features):
        e = feature + tl.arange(0, features)
        state_block = block_of(state, width, s, e, keys, width)
        total = product(block_of(x, x_row, n, e, left, width), tl.trans(state_block), total)
    tl.store(d_linear + at, total.to(d_linear.dtype.element_ty), mask=inside)


@triton.jit
def block_of(
    x: tl.tensor, stride: tl.tensor, rows: tl.tensor, columns: tl.tensor, height: tl.tensor, width: tl.tensor
) -> tl.tensor:
    """[rows, columns] of the matrix [height, width] at x, zeros outside"""
    inside = (rows[:, None] < height) & (columns[None, :] < width)
    return tl.load(x + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def row_of(x: tl.tensor, columns: tl.tensor, width: tl.tensor) -> tl.tensor:
    """[1, columns] of the vector [width] at x in float32, zeros outside"""
    return tl.load(x + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]


@triton.jit
def silu(x: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """silu and its derivative, of float32"""
    sigmoid = 1.0 / (1.0 + tl.exp(-x))
    return x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))


@triton.jit
def _scores(
    held: tl.tensor, q: tl.tensor, q_row: tl.tensor, k: tl.tensor, k_row: tl.tensor, bias: tl.tensor,
    n: tl.tensor, m: tl.tensor, left: tl.tensor, chunk: tl.constexpr, keys: tl.constexpr,
    causal: tl.constexpr, mirrored: tl.constexpr, key_block: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """relu(q k^T + bias), 0 where masked, float32 [n, m]; the first keys of q are held, the others are read anew."""
    bias_block = tl.load(bias + n[:, None] * chunk + m[None, :])
    scores = tl.zeros(bias_block.shape, tl.float32)
    scores = product(held, tl.trans(block_of(k, k_row, m, tl.arange(0, key_block), left, keys)), scores)
    for key in range(key_block, keys, key_block):
        s = key + tl.arange(0, key_block)
        q_block, k_block = block_of(q, q_row, n, s, left, keys), block_of(k, k_row, m, s, left, keys)
        scores = product(q_block, tl.trans(k_block), scores)
    scores = tl.maximum(scores + bias_block.to(tl.float32), 0.0)
    if causal:
        seen = m[None, :] >= n[:, None] if mirrored else m[None, :] <= n[:, None]
        scores = tl.where(seen, scores, 0.0)
    return scores


@triton.jit
def _squares_times(scores: tl.tensor, x: tl.tensor, onto: tl.tensor) -> tl.tensor:
    """scores^2 x + onto. In float16 a square overflows from 256 on, so rows are divided by their largest score."""
    if x.dtype == tl.float16:
        largest = tl.maximum(tl.max(scores, 1), 1.0)
        scaled = scores / largest[:, None]
        return onto + (largest * largest)[:, None] * product((scaled * scaled).to(x.dtype), x, tl.zeros_like(onto))
    return product((scores * scores).to(x.dtype), x, onto)


@triton.jit
def product(x: tl.tensor, y: tl.tensor, onto: tl.tensor) -> tl.tensor:
    """x y + onto, in float32; of float32, three products of tensor cores are about as exact."""
    if INTERPRETED:
        return tl.dot(x.to(tl.float32), y.to(tl.float32), onto, input_precision="ieee")
    return tl.dot(x, y, onto, input_precision="tf32x3")
