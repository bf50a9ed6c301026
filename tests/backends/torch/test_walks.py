"""Long rows of a small batch: states are summed in two passes over segments, here by Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flashir_torch.experiments.card.exactness import TOLERANCE, Core, errors, poisoned, repeats
from flashir_torch.experiments.pretended_card import recorded
from flashir_torch.kernels import blocks
from flashir_torch.kernels.blocks import GATED, NARROW, WIDE, Blocks
from flashir_torch.kernels.launch import Mixed
from tests.cover import grid

CHUNK, KEYS, WIDTH = 16, 8, 24
LENGTHS = (5 * CHUNK + 3, 4 * CHUNK)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one chunk or more; e has several blocks."""
    for name, value in {"PROGRAMS": 7, "WALKS": 12}.items():
        monkeypatch.setattr(blocks, name, value)
    for table in (GATED, WIDE, NARROW):
        for name, each in table.items():
            sizes = {size: min(getattr(each, size), 16) for size in ("rows", "columns", "features")}
            monkeypatch.setitem(table, name, replace(each, **sizes, keys=16, segment=CHUNK))


def operands(batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = ((batch, length, KEYS), (batch, length, WIDTH), (WIDTH,))
    k, v, shift = (torch.randn(shape, generator=random) for shape in shapes)
    return k, v, shift


def wanted(k: Tensor, v: Tensor, causal: bool, lin_norm: str, reverse: bool) -> Tensor:
    """In float64: products of whole chunks, weighted, and summed before or after each."""
    chunks = -(-k.shape[1] // CHUNK)
    k, v = (torch.nn.functional.pad(x.double(), (0, 0, 0, chunks * CHUNK - x.shape[1])) for x in (k, v))
    own = torch.einsum("bgns,bgne->bgse", k.unflatten(1, (chunks, CHUNK)), v.unflatten(1, (chunks, CHUNK)))
    scale = 1.0 if lin_norm == "none" else 1 / CHUNK
    if not causal:
        return own.sum(1) * scale / (chunks if lin_norm == "chunk_mean" else 1)
    seen = torch.arange(chunks).clamp(min=1).double() if lin_norm == "chunk_mean" else torch.ones(chunks).double()
    weights = (scale / seen)[:, None, None]
    if reverse:
        own = own * weights
        return (own.flip(1).cumsum(1).flip(1) - own).flatten(0, 1)
    return ((own.cumsum(1) - own) * weights).flatten(0, 1)


@grid(
    together=1,
    causal=(True, False),
    lin_norm=("none", "chunk", "chunk_mean"),
    reverse=(False, True),
    active=(False, True),
    batch=(1, 3),
    length=LENGTHS,
)
def test_two_passes_sum_what_one_does(
    causal: bool, lin_norm: str, reverse: bool, active: bool, batch: int, length: int
) -> None:
    """On outputs that begin as NaN."""
    k, v, shift = operands(batch, length)
    op = Mixed(CHUNK, causal, lin_norm, (batch, length, WIDTH), KEYS, torch.float32)
    with poisoned(), recorded(run=True) as launches:
        values = torch.empty_like(v)
        got = op.sums(k, v, reverse=reverse, active=(shift, values) if active else None)
    assert [launch.options["totalling"] for launch in launches] == ([True, False] if causal else [True])
    if active:
        v = torch.nn.functional.silu(v + shift)
        torch.testing.assert_close(values, v)
    torch.testing.assert_close(got.double(), wanted(k, v, causal, lin_norm, reverse), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@grid(together=1, batch=(1, 3), length=LENGTHS, lin_norm=("none", "chunk", "chunk_mean"))
def test_the_core_of_a_layer_in_two_passes(batch: int, length: int, lin_norm: str) -> None:
    core = Core(batch, length, CHUNK, 16, WIDTH, lin_norm)
    found = errors(core, torch.float32)
    assert {name: error for name, error in found.items() if not error <= TOLERANCE[torch.float32]} == {}


@pytest.mark.slow
@pytest.mark.usefixtures("shuffled_programs")
def test_the_same_in_every_order_of_programs() -> None:
    assert repeats(Core(1, LENGTHS[0], CHUNK, 16, WIDTH), torch.bfloat16, "cpu")


@pytest.mark.parametrize(
    ("batch", "length", "chunks_walked", "tile"),
    [(1, 32768, 12, 64), (2, 16384, 11, 64), (1, 16384, 8, 64), (1, 4096, 16, 32), (4, 8192, 32, 64), (1, 100, 1, 32)],
)
def test_segments_fill_a_gpu(
    batch: int, length: int, chunks_walked: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long rows are cut, short ones have smaller tiles, and a batch of four is enough."""
    monkeypatch.undo()
    made, span = NARROW["states"].within(256, 128, 1536).walks(batch, length, 256, 128, 1536)
    assert (span, made.features) == (chunks_walked, tile)
    assert isinstance(made, Blocks) and batch * made.tiles(128, 1536) * -(-length // 256 // span) >= 128
