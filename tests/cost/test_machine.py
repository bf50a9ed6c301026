"""The card of the machine at hand, as its driver tells."""

from __future__ import annotations

import stat

import pytest

from flashir.machine import hardware as machine
from flashir.machine.hardware import Card, device_identity, first_card
from flashir.machine.targets import target

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
        first_card.cache_clear()

    yield answers
    first_card.cache_clear()


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


def test_the_card_at_hand_is_taken_for_an_h100():
    numbers = [{**vars(target(f"torch:{name}")), "name": "", "title": "", "memory": 0} for name in ("cuda", "h100")]
    assert numbers[0] == numbers[1]
