"""The kernels for cards that need not be there: their launches, what ptxas makes of them, and the bytes of a layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flashir_torch.experiments.machine_code import CASES, Case, LayerCase, Usage, launches
from tests.backends.torch.support import compiling

KERNELS = {"states", "attend", "score_gradients", "key_gradients"}
LAYER = {"states", "heads", "squares", "attend", "gate_back", "attend_back", "rows_back", "heads_back"}
SHARED = {80: 99 << 10, 90: 227 << 10}  # bytes that a program may have; the former by 8.6 and 8.9, which run its code
MOST_SPILLED = 64  # bytes of a thread
SPILLING = {(80, "heads_back"): 208}
"""What a kernel spills where no blocks were found that keep it in registers."""
TRAFFIC = 2.9e9  # bytes that a layer moves forward and backward
SAVED = 530e6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_launches_every_kernel_forward_and_backward(case: Case | LayerCase) -> None:
    assert {launch.name for launch in launches(case.run)} == (KERNELS if isinstance(case, Case) else LAYER)


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_fit_on_cards(capability: int, tmp_path: Path) -> None:
    """On a 9.0, narrow products at the sizes of a model are those of whole warp groups."""
    command = ("-m", "flashir_torch.experiments.machine_code", "--json", "--capability", str(capability))
    usages = [Usage(**json.loads(line)) for line in compiling(tmp_path, *command).splitlines()]
    assert {usage.kernel for usage in usages} == KERNELS | LAYER
    for usage in usages:
        assert usage.shared <= SHARED[capability], usage
        assert usage.stack <= SPILLING.get((capability, usage.kernel), MOST_SPILLED), usage
        if capability == 90 and usage.case in map(str, CASES[:2]):
            assert bool(usage.wgmma) == (usage.kernel not in ("heads", "gate_back")) and not usage.mma, usage


@pytest.mark.slow
def test_a_layer_moves_no_more_bytes(tmp_path: Path) -> None:
    """Counted from generated code; one more pass over u, v and z is at least 0.1 GB."""
    found = json.loads(compiling(tmp_path, "-m", "flashir_torch.experiments.traffic", "--chunk", "256", "--json"))
    assert found["bytes"] < TRAFFIC
    assert found["saved"] < SAVED
