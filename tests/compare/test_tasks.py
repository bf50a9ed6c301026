"""Tasks: what a row says and asks, where, and what has too little room."""

from __future__ import annotations

import numpy as np
import pytest

from flashir.backends.training import NO_LABEL
from flashir.compare.task_data import TaskData
from flashir.compare.tasks import TASKS, Examples, task_named
from flashir.errors import InputError, SettingError
from flashir.models.load import model as zoo
from flashir.train.recipe import Recipe

EVERY_TASK = pytest.mark.parametrize("name", TASKS)


def rows_of(name: str, rows: int = 50, seq_len: int = 96, chunk: int = 16, vocab: int = 80, items: int = 4) -> Examples:
    return task_named(name, seq_len, chunk, vocab, items).examples(np.random.default_rng(0), rows)


@EVERY_TASK
def test_answers_are_asked_for_in_the_chunk_at_each_distance(name: str) -> None:
    drawn = rows_of(name)
    assert drawn.ids.min() >= 0 and drawn.ids.max() < 80
    asked = drawn.labels != NO_LABEL
    assert np.array_equal(asked, drawn.distances >= 0)
    places = np.broadcast_to(np.arange(96), asked.shape)
    assert np.array_equal(places[asked] // 16, drawn.distances[asked])
    per_distance = [np.count_nonzero(drawn.distances == distance) for distance in (0, 1, 4)]
    assert len(set(per_distance)) == 1 and sum(per_distance) == np.count_nonzero(asked)


def test_a_key_asks_for_the_value_beside_it() -> None:
    drawn = rows_of("recall")
    for ids, labels in zip(drawn.ids, drawn.labels):
        value_of = dict(zip(ids[0:8:2].tolist(), ids[1:8:2].tolist()))
        for place in np.flatnonzero(labels != NO_LABEL):
            assert labels[place] == value_of[int(ids[place])]


def test_a_copy_asks_for_each_symbol_after_the_one_before_it() -> None:
    drawn = rows_of("copy")
    for ids, labels in zip(drawn.ids, drawn.labels):
        string = ids[:4].tolist()
        assert len(set(string)) == 4
        places = np.flatnonzero(labels != NO_LABEL).reshape(3, 4)
        assert (labels[places] == string).all() and (ids[places] == [0, *string[:-1]]).all()


def test_a_bag_asks_how_many_there_are_of_a_kind() -> None:
    drawn = rows_of("bag", items=6, vocab=20)
    for ids, labels in zip(drawn.ids, drawn.labels):
        for place in np.flatnonzero(labels != NO_LABEL):
            assert labels[place] - 6 == np.count_nonzero(ids[:6] == ids[place] - 3)


@EVERY_TASK
@pytest.mark.parametrize("items", [1, 2, 5])
def test_the_smallest_room_and_vocabulary_are_enough_and_less_is_refused(name: str, items: int) -> None:
    kind = TASKS[name]
    room, tokens = kind.room(items), kind.tokens(items) + 1
    drawn = rows_of(name, 5, 2 * room, room, tokens, items)
    assert drawn.ids.max() < tokens and set(drawn.distances.flat) <= {-1, 0, 1}
    with pytest.raises(SettingError) as caught:
        task_named(name, 2 * room - 3, room - 1, tokens - 1, items)
    assert len(caught.value.problems) == 3
    for part in (f"need {room} tokens of a chunk", f"vocabulary of at least {tokens}", "two chunks"):
        assert part in caught.value.message


def test_what_cannot_be_a_task_says_what_can() -> None:
    with pytest.raises(SettingError, match="did you mean 'recall'"):
        task_named("recal", 96, 16, 80, 4)
    with pytest.raises(SettingError, match="items must be at least 1"):
        task_named("recall", 96, 16, 80, 0)
    with pytest.raises(SettingError, match="or at most 5 items"):
        task_named("recall", 96, 16, 80, 6)


def test_a_run_learns_new_rows_by_its_seed_and_all_runs_validate_on_the_same() -> None:
    model, data = zoo("flash", size="tiny", vocab=80, chunk=16), TaskData(task_named("recall", 96, 16, 80, 4))
    feeds = [data.feeds(model, Recipe(seq_len=96, tokens=384, seed=seed)) for seed in (0, 0, 1)]
    batches = [[feed.at(step).inputs[0] for step in (0, 1)] for feed, _ in feeds]
    assert np.array_equal(batches[0], batches[1])
    assert not np.array_equal(batches[0][0], batches[0][1]) and not np.array_equal(batches[0], batches[2])
    held_out = [np.concatenate([batch.inputs[0] for batch in feed.once()]) for _, feed in feeds]
    assert len(held_out[0]) == 128 and np.array_equal(held_out[0], held_out[2])


def test_answers_have_frequencies_and_other_tokens_hardly_any() -> None:
    shares = np.exp(TaskData(task_named("recall", 96, 16, 80, 4)).log_frequencies(80))
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    assert shares[32:64].min() > 0.02 and 0 < shares[:32].max() < 1e-3


def test_a_model_with_more_inputs_is_refused() -> None:
    model = zoo("flash", size="tiny", vocab=80, chunk=16, segments=True)
    with pytest.raises(InputError, match="takes more inputs"):
        TaskData(task_named("recall", 96, 16, 80, 4)).feeds(model, Recipe(seq_len=96, tokens=96))
