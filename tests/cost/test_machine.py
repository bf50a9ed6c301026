"""The card of the machine at hand, as its driver tells."""

from __future__ import annotations

import stat

import pytest

import flashir
from flashir.machine import hardware as machine
from flashir.machine.hardware import Card, compute_capability, device_identity, first_card
from flashir.machine.targets import target
from flashir_torch.kernels import claims

ASKED = "NVIDIA H100 80GB HBM3, 81559"


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A machine whose `nvidia-smi` says what a test wants."""

    def answers(line):
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\necho '{line}'\n")
        smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(machine, "DRIVER", tmp_path)
        forget()

    def forget():
        first_card.cache_clear()
        compute_capability.cache_clear()

    yield answers
    forget()


def test_a_card_is_part_of_what_a_machine_is(driver):
    driver(ASKED)
    assert first_card() == Card("NVIDIA H100 80GB HBM3", 81559 << 20)
    assert device_identity("cuda") == f"{device_identity()}, NVIDIA H100 80GB HBM3"
    assert "NVIDIA" not in device_identity()


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_target_has_the_memory_of_the_card(driver, backend):
    driver("A small one, 16384")
    assert target(f"{backend}:cuda").memory == 16384 << 20
    assert target(f"{backend}:cpu").memory != 16384 << 20


@pytest.mark.parametrize("line", ["", "No devices were found", "a, b"])
def test_a_driver_without_a_card_is_none(driver, line):
    driver(line)
    assert first_card() is None
    assert target("torch:cuda").memory == 80e9


@pytest.mark.parametrize(
    ("line", "known", "triton", "said"),
    [
        ("7.5", (7, 5), "3.9.0", "the GPU has compute capability 7.5, wanted 8.0 or later"),
        ("9.0", (9, 0), "3.9.0", ""),
        ("9.0", (9, 0), "3.1.0", "Triton is 3.1.0, wanted 3.6 or later"),
        ("[N/A]", None, "3.9.0", ""),
    ],
)
def test_kernels_are_for_gpus_and_tritons_that_are_new_enough(driver, monkeypatch, line, known, triton, said):
    """Others compute the parts of an op, and a plan says so."""
    driver(line)
    assert compute_capability() == known
    monkeypatch.setattr(claims, "find_spec", lambda name: True)
    monkeypatch.setattr(claims, "version", lambda name: triton)
    assert claims.lacking("cuda") == claims.condition() == said and claims.lacking("h100") == ""
    model = flashir.model("flash", size="tiny", chunk=64, cumsum="scan")
    why = flashir.plan(model, "torch:cuda", batch=1, seq_len=64).why
    assert bool(said) == ("without a kernel" in why) and said in why


def test_the_card_at_hand_is_taken_for_an_h100():
    numbers = [{**vars(target(f"torch:{name}")), "name": "", "title": "", "memory": 0} for name in ("cuda", "h100")]
    assert numbers[0] == numbers[1]
