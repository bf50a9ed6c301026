"""Without PyTorch there is nothing here to test. Triton wants to know before it loads that kernels are interpreted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

needs = {
    "torch": ["test_*.py"],
    "triton": [
        "test_adamw.py",
        "test_card.py",
        "test_fusing.py",
        "test_gated.py",
        "test_kernel_bench.py",
        "test_loss.py",
        "test_machine_code.py",
        "test_replay.py",
        "test_triton.py",
        "test_walks.py",
    ],
}
collect_ignore_glob = [file for package, files in needs.items() if not find_spec(package) for file in files]

os.environ["TRITON_INTERPRET"] = "1"
if find_spec("torch") and find_spec("triton"):
    from flashir_torch.experiments.interpreter import round_as_gpus_do

    round_as_gpus_do()


@pytest.fixture
def shuffled_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every launch runs its programs in another order."""
    from triton.runtime.interpreter import interpreter_builder

    random, in_turn, order = np.random.default_rng(0), interpreter_builder.set_grid_idx, list[int]()

    def shuffled(x: int, y: int, z: int) -> None:
        if x == 0:
            order[:] = random.permutation(interpreter_builder.grid_dim[0])
        in_turn(int(order[x]), y, z)

    monkeypatch.setattr(interpreter_builder, "set_grid_idx", shuffled)
    yield
    assert order, "no program ran"
