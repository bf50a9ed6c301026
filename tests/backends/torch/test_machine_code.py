"""The kernels for cards that need not be there: their launches, what ptxas makes of them, and the bytes of a layer."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from flashir_torch.experiments.machine_code import CASES, AnyCase, Case, LayerCase, UpdateCase, Usage, launches
from tests.backends.torch.support import compiling

KERNELS = {"states", "attend", "score_gradients", "key_gradients"}
UPDATE = {"addresses", "norm_parts", "norms", "adamw"}
LAYER = {"states", "heads", "squares", "attend", "gate_back", "attend_back", "rows_back", "heads_back"}
SHARED = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}  # bytes that a program may have
MOST_SPILLED = 64  # bytes of a thread
TRAFFIC = 2.9e9  # bytes that a layer moves forward and backward
SAVED = 530e6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_launches_every_kernel_forward_and_backward(case: AnyCase) -> None:
    wanted: dict[type[AnyCase], set[str]] = {Case: KERNELS, LayerCase: LAYER, UpdateCase: UPDATE}
    assert {launch.name for launch in launches(case.run)} == wanted[type(case)]


@pytest.mark.parametrize(("capability", "sizes"), [((9, 0), (128, 64)), ((10, 0), (128, 64)), ((8, 6), (64, 32))])
def test_generations_with_less_shared_memory_have_smaller_blocks(
    capability: tuple[int, int], sizes: tuple[int, int]
) -> None:
    both = (*launches(partial(Case().run, capability)), *launches(partial(LayerCase().run, capability)))
    options = {launch.name: launch.options for launch in both}
    assert (options["key_gradients"]["features"], options["heads_back"]["rows"]) == sizes


@pytest.mark.slow
def test_kernels_of_a_layer_fit_on_a_card(tmp_path: Path) -> None:
    assert {usage.kernel for usage in fitting(90, str(LayerCase()), tmp_path)} == LAYER


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("capability", SHARED)
def test_kernels_fit_on_cards(capability: int, tmp_path: Path) -> None:
    assert {usage.kernel for usage in fitting(capability, "", tmp_path)} == KERNELS | LAYER | UPDATE


def fitting(capability: int, only: str, cache_folder: Path) -> list[Usage]:
    """The usage of each kernel. On a 9.0, narrow products at the sizes of a model are those of whole warp groups."""
    command = ("--json", "--capability", str(capability), "--only", only)
    printed = compiling(cache_folder, "-m", "flashir_torch.experiments.machine_code", *command)
    usages = [Usage(**json.loads(line)) for line in printed.splitlines()]
    for usage in usages:
        assert usage.shared <= SHARED[capability], usage
        assert usage.stack <= MOST_SPILLED, usage
        if capability == 90 and usage.case in map(str, CASES[:2]):
            assert bool(usage.wgmma) == (usage.kernel not in ("heads", "gate_back")) and not usage.mma, usage
    return usages


@pytest.mark.slow
def test_a_layer_moves_no_more_bytes(tmp_path: Path) -> None:
    """Counted from generated code; one more pass over u, v and z is at least 0.1 GB."""
    found = json.loads(compiling(tmp_path, "-m", "flashir_torch.experiments.traffic", "--chunk", "256", "--json"))
    assert found["bytes"] < TRAFFIC
    assert found["saved"] < SAVED
