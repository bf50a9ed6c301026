"""The kernels through the compiler for TPU v4, which needs no TPU, but `pip install 'jax[tpu]'`; skipped without it."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flashir_jax.pallas.mixed import mixed_chunk_attention
from flashir_jax.pallas.vmem import widest_tile

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("libtpu"), reason="libtpu is not installed")]

SIZES = (*product((128, 256, 384, 512, 640), (128,), (256, 1536)), (256, 64, 2048), (384, 256, 1536))
"""n, s, e"""
FITTING = [
    (*sizes, dtype)
    for sizes, dtype in product(SIZES, ("float32", "bfloat16"))
    if widest_tile(*sizes, jnp.dtype(dtype).itemsize)
]


@pytest.fixture(scope="module")
def core() -> Any:
    """A core that is only described."""
    from jax.experimental import topologies

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SKIP_MDS_QUERY", "1"), ("ACCELERATOR_TYPE", "v4-8"), ("WORKER_HOSTNAMES", "localhost")):
            patch.setenv(f"TPU_{name}", value)
        return topologies.get_topology_desc(platform="tpu", topology_name="v4:2x2x1").devices[0]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("chunk", "keys", "width", "dtype"), FITTING)
def test_what_is_claimed_fits_the_memory_of_a_core(
    core: Any, chunk: int, keys: int, width: int, dtype: str, causal: bool
) -> None:
    """Forward and backward: the compiler refuses what takes more than the core has."""
    run = partial(mixed_chunk_attention, chunk=chunk, causal=causal, lin_norm="chunk_mean")

    def loss(*operands: Any) -> Any:
        return run(*operands).astype(jnp.float32).sum()

    there = jax.sharding.SingleDeviceSharding(core)
    shapes = [(2, 3 * chunk, keys)] * 4 + [(2, 3 * chunk, width), (chunk, chunk)]
    specs = [jax.ShapeDtypeStruct(shape, dtype, sharding=there) for shape in shapes]  # type: ignore[no-untyped-call]
    for call in (run, jax.grad(loss, argnums=tuple(range(6)))):
        assert jax.jit(call).lower(*specs).compile().memory_analysis() is not None
