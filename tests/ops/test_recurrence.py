"""The chunked recurrence where the last chunk is padded: what pads it has no weight."""

from __future__ import annotations

import numpy as np
import pytest

from flashir import interpret
from flashir.ir import Builder
from flashir.transforms.lower import Lower


@pytest.mark.parametrize("heads", [(), (3,), (4,)], ids=["alone", "3-heads", "4-heads"])
@pytest.mark.parametrize("kernel", ["softmax", "laplace", "relu2", "identity"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_padding_of_the_last_chunk_has_no_weight(heads: tuple[int, ...], kernel: str, bias: bool) -> None:
    lead, chunk, length = (2, *heads), 3, 7
    b = Builder("m")
    v = b.input("v", f"f32[{', '.join(map(str, (*lead, length, 6)))}]")
    q, k = (b.input(name, f"f32[{', '.join(map(str, (*lead, length, 4)))}]") for name in "qk")
    offsets = b.input("bias", f"f32[{chunk}, {chunk}]") if bias else None
    graph = b.finish(b.chunked_recurrence(v, q, k, offsets, chunk=chunk, causal=False, cumsum="scan", kernel=kernel))
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(value.type.sizes) for value in graph.inputs]
    np.testing.assert_allclose(interpret(Lower().apply(graph), {}, *arrays), interpret(graph, {}, *arrays), atol=1e-9)
