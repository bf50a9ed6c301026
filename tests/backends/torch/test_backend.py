"""The backend as the compiler sees it: without PyTorch, in several threads, with inputs of all kinds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.registry import backend_of
from flashir.errors import InputError, TargetError
from flashir_torch import TorchBackend
from flashir_torch import backend as home
from flashir_torch.devices import device_of
from tests.backends.torch.support import SMALL, flash, session, tokens, unit


def test_it_is_found_by_its_name() -> None:
    found = backend_of("torch:h100")
    assert found == TorchBackend("h100")
    assert torch.__version__.startswith(TorchBackend().versions()["torch"])
    assert "cpu" in found.devices()


def test_without_pytorch_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "find_spec", lambda name: None)
    model, backend = flash(), TorchBackend()
    graph = Lowering("torch:cpu", backend.claims, backend.passes()).run(model)
    for attempt in (
        backend.versions,
        backend.devices,
        lambda: backend.compile(graph, unit(model), "cpu"),
        lambda: flashir.compile(model, "torch:cpu"),
    ):
        with pytest.raises(TargetError, match=r"PyTorch is not installed(.|\n)*pip install 'flashir\[torch\]'"):
            attempt()


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(TargetError, match="no device 'tpu' here, only cpu"):
        device_of("tpu")


def test_runs_in_threads_agree() -> None:
    model = flash()
    run = session(model, unit(model))
    ids = [tokens(model, 2, length) for length in (3, 9, 14, 3, 9, 14)]
    wanted = [run(each) for each in ids]
    with ThreadPoolExecutor(3) as pool:
        for got, want in zip(pool.map(run, ids), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


def test_inputs_of_other_types_and_layouts() -> None:
    model = flash()
    run, (ids,) = session(model, unit(model)), tokens(model, 2, 9)
    wanted = run([ids])
    frozen = ids.copy()
    frozen.flags.writeable = False
    for other in (ids.astype(np.int32), ids.astype(np.uint8), np.asfortranarray(ids), ids[::-1][::-1], frozen):
        np.testing.assert_array_equal(run([other]), wanted)
    with pytest.raises(InputError, match=r"must hold torch\.int32 numbers, got float64"):
        run([ids + 0.5])
    with pytest.raises(InputError, match="takes"):
        run([ids, ids])


def test_results_are_arrays_that_can_be_written() -> None:
    model = flash(dtype="bfloat16")
    logits = session(model, unit(model))(tokens(model, 1, 5))
    assert logits.dtype == np.float32
    logits += 1


def test_several_results_need_outputs() -> None:
    b = flashir.Builder("two")
    x = b.input("x", "f32[2]")
    run = session(b.finish(b.relu(x), b.neg(x)), {})
    assert len(run.outputs([np.ones(2, np.float32)])) == 2
    with pytest.raises(TargetError, match="has 2 results, wanted one"):
        run([np.ones(2, np.float32)])


def test_gau_refuses_what_its_bias_does_not_span() -> None:
    model = flashir.model("flash-quad", **SMALL, max_len=8)
    with pytest.raises(InputError):
        session(model, unit(model))(tokens(model, 1, 9))
