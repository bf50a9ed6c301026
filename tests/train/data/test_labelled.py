"""Labelled examples: what lines may say, every problem with its file and line, splits, and rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashir.backends.training import NO_LABEL
from flashir.errors import InputError, SettingError
from flashir.train.data import Labelled, LabelledBatches, Tokenizer, label_names, labelled

BYTES = Tokenizer.bytes()
CLASSES = [
    {"text": "a goal", "label": "sport"},
    {"text": "a stock", "label": "money"},
    {"tokens": ["an", "x"], "label": 3},
]
TAGS = [
    {"tokens": ["Ada", "met", "Bob R"], "labels": ["NAME", "O", "NAME"], "id": 7},
    {"text": " two  words\n", "labels": [None, "O"]},
]


def lines(path: Path, *content: Any) -> Path:
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in content))
    return path


def classes(tmp_path: Path) -> Labelled:
    return labelled(lines(tmp_path / "x.jsonl", *CLASSES), "class", BYTES)


def batches(data: Labelled, task: str = "class", **settings: Any) -> LabelledBatches:
    return LabelledBatches(data, task, **{"rows": 2, "seq_len": 8, "seed": 0, **settings})


def test_a_text_has_a_label_and_names_are_sorted_numbers_first(tmp_path: Path) -> None:
    data = classes(tmp_path)
    assert data.names == ("3", "money", "sport") == label_names(tmp_path, "class")
    assert [label.tolist() for label in data.labels] == [2, 1, 0]
    assert [BYTES.decode(ids) for ids in data.inputs] == ["a goal", "a stock", "an x"]
    assert labelled(tmp_path, "class", BYTES, ("sport", "other", "money", "3")).labels[0] == 0


def test_the_last_token_of_a_word_has_its_label(tmp_path: Path) -> None:
    data = labelled(lines(tmp_path / "x.jsonl", *TAGS), "tags", BYTES)
    assert BYTES.decode(data.inputs[0]) == "Ada met Bob R" and BYTES.decode(data.inputs[1]) == "two words"
    assert data.names == ("NAME", "O")
    assert np.flatnonzero(data.labels[0] != NO_LABEL).tolist() == [2, 6, 12]
    assert data.labels[0][[2, 6, 12]].tolist() == [0, 1, 0]
    assert np.flatnonzero(data.labels[1] != NO_LABEL).tolist() == [8] and data.labels[1][8] == 1


def test_features_have_labels_too(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", {"features": [[1, 2.5], [3, 4]], "labels": ["a", "b"]})
    data = labelled(file, "tags", None, width=2)
    assert data.inputs[0].tolist() == [[1, 2.5], [3, 4]] and data.inputs[0].dtype == np.float32
    assert data.labels[0].tolist() == [0, 1]
    assert batches(data, "tags").at(0).inputs[0].shape == (2, 8, 2)


@pytest.mark.parametrize(
    ("task", "line", "told"),
    [
        ("class", "{'text': 1}", "this is no labelled example"),
        ("class", [1], "this is no labelled example"),
        ("class", {"text": 3, "label": "a"}, "text"),
        ("class", {"text": "x"}, "it has no label"),
        ("class", {"text": "x", "labels": ["a"]}, "it has no label, but labels"),
        ("tags", {"text": "x", "label": "a"}, "it has no labels, but label"),
        ("class", {"label": "a"}, "it must have text or tokens, got none"),
        ("class", {"text": "x", "tokens": ["x"], "label": "a"}, "it must have text or tokens, got text and tokens"),
        ("class", {"features": [[1.0]], "label": "a"}, "it must have text or tokens, got features"),
        ("class", {"text": "a", "label": ""}, "a label must have 1 to 256 characters that can be printed, got ''"),
        ("class", {"text": "a", "label": "9" * 5000}, "a label must have 1 to 256 characters"),
        ("tags", {"text": "a", "labels": ["\x1b[31m"]}, "a label must have 1 to 256 characters"),
        ("class", {"text": " \n", "label": "a"}, "its text is empty"),
        ("class", {"tokens": [], "label": "a"}, "it has no tokens"),
        ("tags", {"tokens": ["x", " "], "labels": ["a", "a"]}, "token 1 is empty"),
        ("tags", {"tokens": ["x", "y"], "labels": ["a"]}, "it has 1 label for 2 tokens"),
        ("class", {"text": "x", "label": "spurt"}, "there is no label 'spurt'; did you mean 'sport'?"),
    ],
    ids=str,
)
def test_a_line_that_is_wrong_is_told_with_its_file_and_number(task: str, line: Any, told: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", "", line)
    with pytest.raises(InputError) as caught:
        labelled(file, task, BYTES, ("a", "sport"))
    assert f"{file}:2" in caught.value.message and told in caught.value.message
    assert len(caught.value.problems) == 1 and caught.value.hint.startswith("give lines such as")


def test_every_problem_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    one = lines(tmp_path / "one.jsonl", {"label": "a", "tokens": ["", "x"], "text": ""}, {"text": "x", "label": "b"})
    two = lines(tmp_path / "two.jsonl", {"text": "x", "label": "a"}, "{", *[{"text": "x"}] * 30)
    with pytest.raises(InputError) as caught:
        labelled([one, two, tmp_path / "gone"], "class", BYTES, ("a",))
    problems = caught.value.problems
    assert [problem.partition(": ")[0] for problem in problems[1:5]] == [f"{one}:1", f"{one}:1", f"{two}:2", f"{two}:3"]
    assert len(problems) == 21 and problems[-1].startswith("and ")


@pytest.mark.parametrize(
    ("content", "told"),
    [((), "no example is given"), (({"text": "x y", "labels": [None, None]},), "no example has a label")],
    ids=["empty", "without labels"],
)
def test_data_without_labels_are_an_error(content: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        labelled(lines(tmp_path / "x.jsonl", *content), "tags", BYTES)


def test_features_of_another_width_are_an_error(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", {"features": [[1, 2], [3]], "label": "a"}, {"features": [], "label": "a"})
    with pytest.raises(InputError) as caught:
        labelled(file, "class", None, width=2)
    assert "row 1 of its features has 1 number, wanted 2" in caught.value.message
    assert "it has no features" in caught.value.message
    assert '{"features": ' in caught.value.hint


def test_examples_are_held_out_whole_and_equal_ones_together(tmp_path: Path) -> None:
    content = [{"text": f"text {n // 2}", "label": "ab"[n % 2]} for n in range(40)]
    data = labelled(lines(tmp_path / "x.jsonl", *content), "class", BYTES)
    train, held = data.split(0.2)
    assert len(train) + len(held) == 40 and 8 <= len(held) <= 10
    assert {ids.tobytes() for ids in train.inputs}.isdisjoint({ids.tobytes() for ids in held.inputs})
    assert data.split(0.2)[1].digest == held.digest != train.digest
    with pytest.raises(InputError, match="1 example is too few"):
        labelled(lines(tmp_path / "x.jsonl", CLASSES[0]), "class", BYTES).split(0.5)
    with pytest.raises(SettingError, match="between 0 and 1"):
        data.split(1.0)


def test_rows_are_padded_behind_a_mask_or_cut(tmp_path: Path) -> None:
    data = classes(tmp_path)
    found = batches(data, rows=3, shuffle=False, segments=True).at(0)
    ids, segments, mask = found.inputs
    assert mask.sum(axis=1).tolist() == [6, 7, 4] and not ids[~mask].any() and not segments.any()
    assert found.labels.tolist() == [2, 1, 0]
    tags = labelled(lines(tmp_path / "x.jsonl", *TAGS), "tags", BYTES)
    cut = batches(tags, "tags", shuffle=False)
    assert cut.at(0).labels.shape == (2, 8) and (cut.at(0).labels != NO_LABEL).sum() == 2
    assert cut.notes == ("2 of 2 examples are longer than 8 tokens, and are cut",)
    assert batches(tags, "tags", seq_len=64).notes[0].startswith("examples have at most 13 tokens")
    with pytest.raises(InputError, match="the model takes no mask to hide the padding"):
        batches(data, mask=False)
    assert len(batches(data, mask=False, seq_len=4).at(0).inputs) == 1
    with pytest.raises(InputError, match="no label is left in rows of 2"):
        batches(tags, "tags", seq_len=2)


def test_an_epoch_has_each_example_once_and_its_last_batch_is_filled_up(tmp_path: Path) -> None:
    found = batches(classes(tmp_path))
    assert sorted(np.concatenate([found.at(0).labels, found.at(1).labels])[:3].tolist()) == [0, 1, 2]
    assert [batch.labels.tolist() for batch in found.once()] == [[2, 1], [0, NO_LABEL]]
