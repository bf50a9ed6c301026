"""Work that is recorded once and replayed: here by a recorder that does again what it was shown."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.training import AdamW, Batch
from flashir.ir import Builder, DType, Graph
from flashir_torch import training
from flashir_torch.replay import MOST, WARM_UP, Replay, Work
from flashir_torch.training import TorchTrainer
from tests.backends.torch.support import Again

on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA card")


def test_the_third_call_records_and_later_ones_replay() -> None:
    recorder = Again()
    doubled = partial(Replay(recorder), lambda x: 2 * x)
    for number in range(5):
        assert doubled(torch.tensor([number])).item() == 2 * number
    assert (recorder.warmed, recorder.recorded, recorder.replayed) == (WARM_UP, 1, 5 - WARM_UP)


def test_every_shape_has_its_own_recording_up_to_a_number() -> None:
    recorder = Again()
    total = partial(Replay(recorder), lambda x, y: x.sum() + y)
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
    doubled = partial(Replay(recorder), lambda x: 2 * x)
    calls = [torch.tensor([number]) for number in range(5)]
    assert [doubled(each).item() for each in calls[:WARM_UP]] == [0, 2]
    with pytest.warns(UserWarning, match="cannot be recorded, so it stays slower: no memory"):
        assert doubled(calls[2]).item() == 4
    assert [doubled(each).item() for each in calls[3:]] == [6, 8]
    assert recorder.warmed == 5


def test_what_was_given_is_not_overwritten() -> None:
    given = [torch.tensor([number]) for number in range(4)]
    same = partial(Replay(Again()), lambda x: x + 0)
    assert [same(each).item() for each in given] == [0, 1, 2, 3]
    assert [each.item() for each in given] == [0, 1, 2, 3]


def test_a_trainer_that_replays_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several batches a step, and of two lengths."""
    plain = _plain()
    monkeypatch.setattr(training, "CardRecorder", Again)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", lambda made, **_: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert np.allclose(_steps(_model(), "cpu"), plain, rtol=1e-6)


def test_a_trainer_without_memory_to_record_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _plain()
    monkeypatch.setattr(training, "CardRecorder", Full)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", lambda made, **_: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.warns(UserWarning, match="cannot be recorded") as told:
        assert np.allclose(_steps(_model(), "cpu"), plain, rtol=1e-6)
    assert len(told) == 1


class Filled(Again):
    """Its recordings hold so much memory that work on other shapes fails after a part of its gradients."""

    def warm_up(self, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        result = super().warm_up(work, inputs)
        is_update = len(inputs) == 1  # which needs no activations
        if not is_update and any(recording() is not None for recording in self.recordings):
            raise torch.OutOfMemoryError("no memory beside the recordings")
        return result

    def __init__(self) -> None:
        super().__init__()
        self.recordings: list[weakref.ref[Callable[[], Tensor]]] = []

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        made = super().record(work, inputs)
        self.recordings.append(weakref.ref(made))
        return made


def test_recordings_make_room_for_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = (32, 32, 32, 17, 17)
    plain = _steps(_model(), "cpu", lengths)
    monkeypatch.setattr(training, "CardRecorder", Filled)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", lambda made, **_: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.warns(UserWarning, match="memory runs out beside recorded steps") as told:
        assert np.allclose(_steps(_model(), "cpu", lengths), plain, rtol=1e-6)
    assert len(told) == 1


def test_without_recordings_there_is_no_room_to_make() -> None:
    assert not Replay(Again()).forget()


class Silent(Again):
    """Replays nothing, so that a test sees what else a step does."""

    def record(self, work: Work, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        result = super().record(work, inputs)()

        def replay() -> Tensor:
            self.replayed += 1
            return result

        return replay


def test_outside_its_recordings_a_step_reads_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipping, AdamW and clearing gradients are recorded too."""
    monkeypatch.setattr(training, "CardRecorder", lambda: recorder)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", lambda made, **_: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    recorder = Silent()
    trainer = TorchTrainer(Lowering.of("torch:cpu").run(_model()), flashir.init(_model()), "cpu", AdamW(clip=0.1))
    ids = np.zeros((2, 32), np.int64)
    for _ in range(WARM_UP + 1):
        trainer.step([Batch((ids,), ids)], 1e-2)
    with Operators() as seen:
        trainer.step([Batch((ids,), ids)], 1e-2)
    assert recorder.replayed == recorder.recorded + 2 == 3  # recorded by running it, then twice replayed
    assert not {"add_.Tensor", "zero_.default"} & set(seen.names)
    assert {name for name in seen.names if name.startswith("_foreach") or "adam" in name} == set()
    assert len(seen.names) < 25, seen.names


class Operators(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_steps_of_one_batch_and_of_two_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two keep their gradients in place while those of one have others."""
    counts = (1, 2, 1, 2, 1, 2, 1)
    plain = _steps(_model(), "cpu", (32,) * len(counts), counts)
    monkeypatch.setattr(training, "CardRecorder", Again)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", lambda made, **_: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert np.allclose(_steps(_model(), "cpu", (32,) * len(counts), counts), plain, rtol=1e-6)


@pytest.mark.slow
def test_twenty_losses_with_joints_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _steps(_model(), "cpu", (32,) * 20, (1,) * 20)
    monkeypatch.setattr(training, "CardRecorder", Again)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert np.allclose(_steps(_model(), "cpu", (32,) * 20, (1,) * 20), plain, rtol=1e-5)


def test_a_step_of_one_batch_leaves_no_gradients_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CardRecorder", Again)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", lambda made, **_: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    trainer = TorchTrainer(Lowering.of("torch:cpu").run(_model()), flashir.init(_model()), "cpu", AdamW(clip=0.1))
    ids = np.zeros((2, 32), np.int64)
    trainer.step([Batch((ids,), ids)], 1e-2)
    assert all(parameter.grad is None for parameter in trainer._parameters.values())
    with Operators() as seen:
        trainer.step([Batch((ids,), ids)], 1e-2)
    assert not {name for name in seen.names if name.startswith(("zero_", "_foreach_zero_"))}, seen.names


@on_a_card
def test_on_a_card_too(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = _steps(_model("torch:cuda"), "cuda")
    monkeypatch.setattr(training, "CardRecorder", Again)
    assert np.allclose(recorded, _steps(_model("torch:cuda"), "cuda"), rtol=1e-4)


def test_what_a_trainer_knows_while_it_replays_goes_on_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and moments after a replayed step, in a fresh trainer that does not replay."""
    monkeypatch.setattr(training, "CardRecorder", Again)
    monkeypatch.setattr(training, "fuse", lambda made, **_: None)
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


def test_weights_in_float64_stay_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of AdamW read float32."""
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "fuse", pytest.fail)
    b = Builder("wide")
    ids_in = b.input("ids", "i64[B, T]")
    table = b.param(name="table", shape=(5, 4), dtype=DType.F64)
    graph = b.finish(b.matmul(b.gather(table, ids_in), b.param(name="w", shape=(4, 5), dtype=DType.F64)))
    ids = np.zeros((2, 3), np.int64)
    trainer = TorchTrainer(Lowering.of("torch:cpu").run(graph), flashir.init(graph), "cpu", AdamW(clip=0.1))
    assert np.isfinite(trainer.step([Batch((ids,), ids)], 1e-2).loss)


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


@cache
def _plain() -> list[float]:
    """Steps without a recorder."""
    return _steps(_model(), "cpu")


@cache
def _model(target: str = "torch:cpu") -> Graph:
    model = flashir.model("flash", d_model=16, depth=1, vocab=11, key_dim=8, chunk=16)
    return flashir.plan(model, target, 2, 32, training=True).graph


LENGTHS = (17, 32, 17, 32, 17)


def _steps(
    model: Graph, device: str, lengths: tuple[int, ...] = LENGTHS, counts: tuple[int, ...] | None = None
) -> list[float]:
    """The losses of some steps of AdamW of so many batches, two by default, and the norms of their gradients."""
    lowered = Lowering.of(f"torch:{device}").run(model)
    trainer = TorchTrainer(lowered, flashir.init(model), device, AdamW(clip=0.1))
    random, found = np.random.default_rng(0), []
    for length, count in zip(lengths, counts or (2,) * len(lengths), strict=True):
        shape = (2, length)
        batches = [Batch((random.integers(0, 11, shape),), random.integers(-1, 11, shape)) for _ in range(count)]
        step = trainer.step(batches, 1e-2)
        found += [step.loss, step.gradient_norm]
        found.append(trainer.score(batches[0]).nats)
    return found
