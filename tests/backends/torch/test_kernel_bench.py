"""The bench of the kernel for mixed_chunk_attention: it compares before it times, and knows the roofline of a card."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from flashir.errors import TargetError
from flashir.machine.targets import target as flashir_target
from flashir_torch.experiments import kernel as bench_kernel


def test_the_bench_compares_before_it_times() -> None:
    sizes = bench_kernel.Sizes("float32", 37, keys=8, width=16, chunk=16)
    nets: dict[str, Any] = dict(bench_kernel.contestants(sizes))
    operands = sizes.operands("cpu")
    bench_kernel.check(sizes, nets, operands)
    with pytest.raises(TargetError, match="wrong differs from the kernel"):
        bench_kernel.check(sizes, {**nets, "wrong": lambda *xs: 1.01 * nets["parts, matmul"](*xs)}, operands)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_the_bench_says_that_it_needs_a_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_kernel"])
    with pytest.raises(SystemExit):
        bench_kernel.main()
    assert "needs a CUDA device, and PyTorch finds none" in capsys.readouterr().err


def test_the_roofline_is_that_of_the_record() -> None:
    """By hand: 4096 tokens of 7168 bytes at 3.35 TB/s; 4.97 GFLOP at 67 TFLOP/s."""
    card = flashir_target("torch:h100")
    assert bench_kernel.Sizes("bfloat16", 4096).bound(card, step=False) == pytest.approx(29.4e6 / 3.35e9, rel=1e-2)
    assert bench_kernel.Sizes("float32", 4096).bound(card, step=False) == pytest.approx(4.97e9 / 6.7e10, rel=1e-2)
