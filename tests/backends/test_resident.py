"""Runs on inputs that lie on the device before they are timed."""

from __future__ import annotations

import numpy as np
import pytest

import flashir
from flashir.backends.protocols import Resident
from flashir.backends.registry import backend_of
from flashir.backends.warm_call import timed
from flashir.errors import InputError
from flashir.execution import timed_step as subject
from flashir.planning.workload import Workload
from tests.backends.support import flash, session, tokens

TARGETS = ("torch:cpu", "jax:cpu")


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize("target", TARGETS)
def test_a_run_on_the_device_is_that_of_arrays(target):
    model = flash(chunk=4)
    run, ids = session(target, model, flashir.init(model)), tokens(model, 2, 9)
    assert isinstance(run, Resident)
    resident = run.resident(ids)
    for _ in range(2):
        made = resident()
        first = made[0] if isinstance(made, tuple) else made
        assert np.array_equal(np.asarray(first), run(ids))
    with pytest.raises(InputError, match="got 0"):
        run.resident([])


@pytest.mark.parametrize("target", [*TARGETS, "onnx:cpu"])
def test_a_processor_is_timed_on_arrays(target):
    model = flash(chunk=4)
    run, ids = session(target, model, flashir.init(model)), tokens(model, 1, 5)
    assert np.array_equal(timed(run, "cpu", ids)(), run(ids))


def test_a_card_is_timed_on_what_lies_there():
    class Card:
        def __call__(self, arrays):
            raise AssertionError("nothing is moved")

        def resident(self, arrays):
            return lambda: arrays

    assert timed(Card(), "cuda", [1, 2])() == [1, 2]


def test_a_subject_is_compiled_once(monkeypatch):
    found, compiled = backend_of("onnx:cpu"), []
    original = type(found).compile
    monkeypatch.setattr(type(found), "compile", lambda *given: compiled.append(1) or original(*given))
    subject.subject(flash(chunk=4), "onnx:cpu", Workload(1, 5))()
    assert compiled == [1]
