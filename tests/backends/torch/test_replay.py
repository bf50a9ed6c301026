"""Work that is recorded once and replayed: here by a recorder that does again what it was shown."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import AdamW, Batch
from flashir.ir import Graph
from flashir_torch import training
from flashir_torch.replay import MOST, WARM_UP, Replay, Work
from flashir_torch.training import TorchTrainer
from tests.backends.torch.support import Again

on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA card")


def test_the_third_call_records_and_later_ones_replay() -> None:
    recorder = Again()
    doubled = Replay(lambda x: 2 * x, recorder)
    for number in range(5):
        assert doubled(torch.tensor([number])).item() == 2 * number
    assert (recorder.warmed, recorder.recorded, recorder.replayed) == (WARM_UP, 1, 5 - WARM_UP)


def test_every_shape_has_its_own_recording_up_to_a_number() -> None:
    recorder = Again()
    total = Replay(lambda x, y: x.sum() + y, recorder)
    one = torch.tensor(1.0)
    for _ in range(WARM_UP + 2):
        for size in range(1, MOST + 3):
            assert total(torch.ones(size), one).item() == size + 1
    assert recorder.recorded == MOST
    assert recorder.replayed == 2 * MOST
    assert recorder.warmed == WARM_UP * MOST + (WARM_UP + 2) * 2


class Full(Again):
    """Has no memory for a recording. What a failed one held is gone before work is done."""

    held: weakref.ref[Tensor] | None = None

    def warm_up(self, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        assert self.held is None or self.held() is None
        return super().warm_up(work, inputs)

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        made = torch.ones(3)
        self.held = weakref.ref(made)
        raise torch.OutOfMemoryError("no memory")


def test_what_cannot_be_recorded_is_done_as_it_comes() -> None:
    recorder = Full()
    doubled = Replay(lambda x: 2 * x, recorder)
    calls = [torch.tensor([number]) for number in range(5)]
    assert [doubled(each).item() for each in calls[:WARM_UP]] == [0, 2]
    with pytest.warns(UserWarning, match="cannot be recorded, so it stays slower: no memory"):
        assert doubled(calls[2]).item() == 4
    assert [doubled(each).item() for each in calls[3:]] == [6, 8]
    assert recorder.warmed == 5


def test_what_was_given_is_not_overwritten() -> None:
    given = [torch.tensor([number]) for number in range(4)]
    same = Replay(lambda x: x + 0, Again())
    assert [same(each).item() for each in given] == [0, 1, 2, 3]
    assert [each.item() for each in given] == [0, 1, 2, 3]


def test_a_trainer_that_replays_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several batches a step, and of two lengths."""
    plain = _steps(_model(), "cpu")
    monkeypatch.setattr(training, "CardRecorder", Again)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", lambda made: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert np.allclose(_steps(_model(), "cpu"), plain, rtol=1e-6)


def test_a_trainer_without_memory_to_record_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _steps(_model(), "cpu")
    monkeypatch.setattr(training, "CardRecorder", Full)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", lambda made: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.warns(UserWarning, match="cannot be recorded") as told:
        assert np.allclose(_steps(_model(), "cpu"), plain, rtol=1e-6)
    assert len(told) == 1


@on_a_card
def test_on_a_card_too(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = _steps(_model("torch:cuda"), "cuda")
    monkeypatch.setattr(training, "CardRecorder", Again)
    assert np.allclose(recorded, _steps(_model("torch:cuda"), "cuda"), rtol=1e-4)


def test_what_a_trainer_knows_while_it_replays_goes_on_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and moments after a replayed step, in a fresh trainer that does not replay."""
    monkeypatch.setattr(training, "CardRecorder", Again)
    monkeypatch.setattr(training, "fuse", lambda made: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    lowered, params = Lowering.of("torch:cpu").run(_model()), flashir.init(_model())
    ids = np.random.default_rng(0).integers(0, 11, (2, 32))
    batch = Batch((ids,), np.roll(ids, -1, 1))
    monkeypatch.setattr(training, "fuses", lambda device: True)
    replaying = TorchTrainer(lowered, params, "cpu", AdamW())
    for _ in range(WARM_UP + 2):
        replaying.step([batch], 1e-2)
    monkeypatch.setattr(training, "fuses", lambda device: False)
    plain = TorchTrainer(lowered, replaying.params(), "cpu", AdamW(), replaying.state())
    for _ in range(2):
        again, wanted = replaying.step([batch], 1e-2), plain.step([batch], 1e-2)
        assert np.allclose(again.loss, wanted.loss, rtol=1e-5)
        assert np.allclose(again.gradient_norm, wanted.gradient_norm, rtol=1e-4)


def test_a_trainer_that_is_dropped_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parameters and recordings do not wait for the collector."""
    monkeypatch.setattr(training, "CardRecorder", Again)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    trainer = TorchTrainer(Lowering.of("torch:cpu").run(_model()), flashir.init(_model()), "cpu", AdamW())
    seen = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert seen() is None
    finally:
        gc.enable()


def _model(target: str = "torch:cpu") -> Graph:
    model = flashir.model("flash", d_model=16, depth=2, vocab=11, chunk=16)
    return flashir.plan(model, target, 2, 32, training=True).graph


def _steps(model: Graph, device: str) -> list[float]:
    """The losses of some steps of AdamW, and the norms of their gradients."""
    lowered = Lowering.of(f"torch:{device}").run(model)
    trainer = TorchTrainer(lowered, flashir.init(model), device, AdamW(clip=0.1))
    random, found = np.random.default_rng(0), []
    for number in range(8):
        shape = (2, 32 if number % 3 else 17)
        batches = [Batch((random.integers(0, 11, shape),), random.integers(-1, 11, shape)) for _ in range(2)]
        step = trainer.step(batches, 1e-2)
        found += [step.loss, step.gradient_norm]
        found.append(trainer.loss(batches[0])[0])
    return found
