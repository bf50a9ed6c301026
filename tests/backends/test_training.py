"""Training is the same on every backend that trains: loss, gradients, clipping, AdamW, and what is carried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.backends.protocols import Trainable
from flashir.backends.registry import backend, backend_names, backend_of
from flashir.backends.score import Score
from flashir.backends.training import NO_LABEL, AdamW, Batch, Step, Trainer
from flashir.errors import InputError, ParameterError
from flashir.execution.prepare import prepare
from flashir.ir import Graph
from flashir.models.parameters import unit
from tests.backends.training import RATE, SYSTEMS, drawn, parts, small
from tests.cover import in_turn

Array = np.ndarray[Any, Any]
TARGETS = [f"{name}:cpu" for name in backend_names() if isinstance(backend(name), Trainable)]
MODEL = """model @m(%ids: i32[B, T]) -> f32[B, T, 5] {
  %x = embed(%ids) {vocab = 5, dim = 4}
  %l = unembed(%x) {tied = true}
  return %l
}"""
BATCH = Batch((np.array([[0, 1, 2], [3, 4, 1]]),), np.array([[1, 2, NO_LABEL], [4, 0, 3]]))
every_target = pytest.mark.parametrize("target", TARGETS)


def trainer(target: str, model: Graph, params: dict[str, Array], optimiser: AdamW | None = None, **how: Any) -> Trainer:
    found = backend_of(target)
    assert isinstance(found, Trainable)
    return found.trainer(prepare(model, target, params).lowered, params, "cpu", optimiser or AdamW(clip=0.1), **how)


def same(one: dict[str, Array], other: dict[str, Array], limit: float = 0.0) -> None:
    """Raises AssertionError where arrays differ by more than `limit`."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_allclose(array, other[name], rtol=0, atol=limit, err_msg=name)


def test_backends_that_train_are_known() -> None:
    assert TARGETS == ["jax:cpu", "torch:cpu"]
    assert not isinstance(backend("onnx"), Trainable)


def loss_of(logits: Array, labels: Array) -> float:
    """In float64, by the book."""
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    kept = labels != NO_LABEL
    return float(-np.mean(np.log(np.take_along_axis(chances, np.where(kept, labels, 0)[..., None], -1)[..., 0][kept])))


def slopes(loss: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """By central differences."""
    made = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[place] = step
        made[place] = (loss(at + shift) - loss(at - shift)) / (2 * step)
    return made


@every_target
@pytest.mark.parametrize("clip", [None, 0.05, 1e9])
def test_the_loss_counts_labels_alone_and_the_step_is_adamw(target: str, clip: float | None) -> None:
    """Against numpy in float64. The gradients are about 0.5 long."""
    params = {"embed.weight": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)}
    own = np.asarray(params["embed.weight"], np.float64)
    made = trainer(target, flashir.loads(MODEL), params, AdamW(0.8, 0.9, epsilon=1e-3, weight_decay=0.5, clip=clip))
    mean, square = np.zeros_like(own), np.zeros_like(own)
    (ids,), labels = BATCH.inputs, BATCH.labels
    for count, rate in enumerate((0.1, 0.02, 0.1), 1):
        step = made.step([BATCH], rate)
        assert step.loss == pytest.approx(loss_of(own[ids] @ own.T, labels), rel=1e-4), count
        slope = slopes(lambda weight: loss_of(weight[ids] @ weight.T, labels), own)
        assert step.gradient_norm == pytest.approx(np.linalg.norm(slope), rel=1e-4), count
        slope *= 1 if clip is None else min(1, clip / np.linalg.norm(slope))
        mean, square = 0.8 * mean + 0.2 * slope, 0.9 * square + 0.1 * slope**2
        change = mean / (1 - 0.8**count) / (np.sqrt(square / (1 - 0.9**count)) + 1e-3)
        own = own - rate * (change + 0.5 * own)
        np.testing.assert_allclose(made.params()["embed.weight"], own, rtol=0, atol=1e-4)
    state = {"mean.embed.weight": mean, "square.embed.weight": square, "count": np.asarray(3)}
    same(made.state(), {name: x.astype(made.state()[name].dtype) for name, x in state.items()}, 1e-5)


@pytest.mark.slow_where(target="jax:cpu")
@every_target
def test_each_layer_is_clipped_by_itself(target: str) -> None:
    """After one step, the mean is a tenth of the gradient, clipped where it was long."""
    model = small(depth=3)
    params, batch = unit(model), drawn(model)
    whole, clipped = (trainer(target, model, params, AdamW(clip=clip)) for clip in (None, 1.0))
    assert whole.step([batch], RATE) == pytest.approx(clipped.step([batch], RATE))
    long, short = 0, 0
    for name in params:
        slope, got = (10 * each.state()[f"mean.{name}"] for each in (whole, clipped))
        length = np.linalg.norm(slope)
        long, short = long + (length > 1), short + (0 < length < 1)
        np.testing.assert_allclose(got, slope * min(1, 1 / max(length, 1e-9)), atol=1e-5, err_msg=name)
    assert long > 5
    assert short > 5


@pytest.mark.slow_where(target="jax:cpu")
@in_turn(target=TARGETS, cuts=((0, 1, 2, 3, 4), (0, 1, 4), (0, 3, 4)))
def test_a_batch_in_parts_is_the_batch(target: str, cuts: Sequence[int]) -> None:
    """Parts of several sizes, one of them without any label."""
    model = small()
    batch = drawn(model)
    batch.labels[0] = NO_LABEL
    whole, split = (trainer(target, model, unit(model)) for _ in range(2))
    for _ in range(3):
        one = whole.step([batch], RATE)
        other = split.step(parts(batch, cuts), RATE)
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    same(whole.params(), split.params(), 2e-4)


@pytest.mark.slow_where(target="jax:cpu")
@every_target
def test_remat_gives_the_same_numbers(target: str) -> None:
    model = small()
    kept, again = (trainer(target, model, unit(model), remat=remat) for remat in (False, True))
    for seed in range(3):
        one, other = (each.step([drawn(model, seed)], RATE) for each in (kept, again))
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
    same(kept.params(), again.params(), 1e-6)


@pytest.mark.slow_where(target="jax:cpu")
@every_target
def test_what_is_carried_on_is_bit_equal(target: str) -> None:
    model = small()
    batches = [drawn(model, seed) for seed in range(6)]
    straight = trainer(target, model, unit(model))
    first = trainer(target, model, unit(model))
    wanted = [straight.step([batch], RATE) for batch in batches]
    got = [first.step([batch], RATE) for batch in batches[:3]]
    second = trainer(target, model, first.params(), state=first.state())
    got += [second.step([batch], RATE) for batch in batches[3:]]
    assert got == wanted
    assert second.state()["count"] == 6
    same(second.params(), straight.params())
    same(second.state(), straight.state())


@pytest.mark.grid
@pytest.mark.slow
@every_target
def test_the_same_bits_on_all_threads(target: str) -> None:
    """Tensors so large that their sums are shared out."""
    model = small(d_model=256, vocab=257)
    ids = np.random.default_rng(0).integers(0, 257, (4, 1025))
    batch = Batch((ids[:, :-1],), ids[:, 1:])
    one, other = (trainer(target, model, unit(model)) for _ in range(2))
    for _ in range(3):
        assert one.step([batch], RATE) == other.step([batch], RATE)
    same(one.params(), other.params())


@pytest.mark.slow_where(target="jax:cpu")
@in_turn(target=TARGETS, dtype=("bfloat16", "float16"))
def test_parameters_stay_wide_where_the_model_is_narrow(target: str, dtype: str) -> None:
    """Steps that are lost in bfloat16 add up, and the first parameters are those given, to the bit."""
    model = flashir.plan(small(), target, dtype=dtype).graph
    params = unit(model)
    made = trainer(target, model, params)
    same(made.params(), params)
    first, *_, last = (made.step([drawn(model)], RATE).loss for _ in range(8))
    after = made.params()
    moved = [np.abs(after[name] - params[name]) for name in params]
    assert max(change.max() for change in moved) < 20 * RATE
    assert sum((change > 0).mean() > 0.5 for change in moved) > len(moved) / 2
    assert last < first
    wide = trainer(target, small(), params)
    assert first == pytest.approx(wide.step([drawn(model)], RATE).loss, rel=2e-2)


@pytest.mark.slow_where(target="jax:cpu")
@every_target
def test_the_loss_alone_changes_nothing(target: str) -> None:
    model = small()
    made = trainer(target, model, unit(model))
    batch = drawn(model)
    score = made.score(batch)
    assert score.labels == batch.wanted and 0 <= score.right <= score.labels
    assert score == made.score(batch)
    assert made.step([batch], RATE).loss == pytest.approx(score.loss, rel=1e-6)
    assert made.score(batch).nats < score.nats
    batch.labels[:] = NO_LABEL
    assert made.score(batch) == Score(0.0, 0, 0)


@every_target
def test_parameters_that_are_given_or_taken_are_copies(target: str) -> None:
    params = {"embed.weight": np.ones((5, 4), np.float32)}
    made = trainer(target, flashir.loads(MODEL), params, AdamW())
    made.step([BATCH], 1.0)
    assert (params["embed.weight"] == 1).all()
    taken, state = made.params(), made.state()
    before = {name: array.copy() for name, array in {**taken, **state}.items()}
    made.step([BATCH], 1.0)
    same({**taken, **state}, before)


@every_target
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.full((2, 3), NO_LABEL), "there are no labels"),
        (np.array([[1, 2, 5], [4, 0, 3]]), r"1 labels are outside 0 \.\. 4, the first at \(0, 2\): 5"),
        (np.array([[1, 2, -2], [4, 0, 3]]), r"outside 0 \.\. 4"),
    ],
)
def test_labels_that_teach_nothing_are_refused(target: str, labels: Array, said: str) -> None:
    made = trainer(target, flashir.loads(MODEL), {"embed.weight": np.ones((5, 4), np.float32)})
    with pytest.raises(InputError, match=said):
        made.step([Batch(BATCH.inputs, labels)], RATE)


@every_target
def test_a_state_of_another_model_is_refused(target: str) -> None:
    params = {"embed.weight": np.ones((5, 4), np.float32)}
    state = {"mean.embed.weight": np.ones((4, 4)), "square.embed.wait": np.ones((5, 4)), "count": np.asarray(1)}
    with pytest.raises(ParameterError) as caught:
        trainer(target, flashir.loads(MODEL), params, state=state)
    assert caught.value.problems == (
        "square.embed.weight is missing",
        "square.embed.wait belongs to no parameter; did you mean 'square.embed.weight'?",
        "mean.embed.weight must have shape (5, 4), got (4, 4)",
    )


def losses(made: Trainer, model: Graph, seeds: Sequence[int]) -> list[Step]:
    return [made.step([drawn(model, seed)], RATE) for seed in seeds]


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize(("system", "settings"), SYSTEMS, ids=str)
def test_backends_learn_alike_and_carry_each_other_on(system: str, settings: dict[str, Any]) -> None:
    """Six steps on each; and three on one, three on the other."""
    model = small(system, **settings)
    wanted = losses(trainer("torch:cpu", model, unit(model)), model, range(6))
    assert wanted[-1].loss < wanted[0].loss
    for first, second in (("torch:cpu", "jax:cpu"), ("jax:cpu", "torch:cpu"), ("jax:cpu", "jax:cpu")):
        one = trainer(first, model, unit(model))
        got = losses(one, model, range(3))
        other = trainer(second, model, one.params(), state=one.state())
        got += losses(other, model, range(3, 6))
        assert [step.loss for step in got] == pytest.approx([step.loss for step in wanted], rel=1e-3)
        assert [step.gradient_norm for step in got] == pytest.approx([s.gradient_norm for s in wanted], rel=2e-2)
