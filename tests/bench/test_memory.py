"""The most memory that a process had: of the machine, and of accelerators that need not be there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from flashir.backends.registry import backend
from flashir.machine.peak_memory import Metered, peak_memory, peak_meter


def placed(monkeypatch: pytest.MonkeyPatch, found: object, device: str) -> Callable[[], int | None]:
    monkeypatch.setattr("flashir.machine.device.available_device", lambda target: device)
    monkeypatch.setattr("flashir.backends.registry.backend_of", lambda target: found)
    return peak_meter("some:device")


def test_a_processor_has_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placed(monkeypatch, backend("torch"), "cpu") is peak_memory


def test_a_card_has_a_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("flashir_torch.devices.device_names", lambda: ("cpu", "cuda", "h100"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 12345)
    assert placed(monkeypatch, backend("torch"), "h100")() == 12345


def test_so_has_an_accelerator_of_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    for stats, known in (({"peak_bytes_in_use": 12345}, 12345), (None, None), ({}, None)):
        device = SimpleNamespace(memory_stats=lambda stats=stats: stats)
        monkeypatch.setattr("flashir_jax.devices.device_of", lambda name, device=device: device)
        assert placed(monkeypatch, backend("jax"), "tpu-v4")() == known


def test_a_backend_that_cannot_tell_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(backend("onnx"), Metered)
    assert placed(monkeypatch, backend("onnx"), "cuda")() is None
