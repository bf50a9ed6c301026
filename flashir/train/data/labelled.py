"""Labelled examples: lines of JSON with a text, words or features, and a label for the whole, or one for each part.

{"text": "They won the cup.", "label": "sport"}
{"text": "Ada met Bob", "labels": ["NAME", null, "NAME"]}                 words are split at white space
{"tokens": ["Ada", "met", "Bob Ross"], "labels": ["NAME", "O", "NAME"]}   or given
{"features": [[0.1, 0.7], [0.3, 0.2]], "label": 3}                        numbers [t, d] for models of features
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

import numpy as np
from msgspec import Struct

from flashir.arguments import shown, typed
from flashir.backends.training import NO_LABEL
from flashir.errors import InputError, SettingError, counted, gathered, option, suggest
from flashir.files.foreign import opened, parse_json
from flashir.ir.limits import LONGEST_NAME
from flashir.reference.arrays import Array
from flashir.train.data.text import Paths, Progress, files_of, listed
from flashir.train.data.tokenizer import Tokenizer

Label = str | int | bool

LABELLED = ("class", "tags")
"""Tasks with labelled data: a label for each example, or one for each of its words."""
SUFFIX = ".jsonl"
CONTENTS = ("text", "tokens", "features")
FIELDS = {"class": "label", "tags": "labels"}
EXAMPLES = {
    ("class", "text"): '{"text": "They won the cup.", "label": "sport"}',
    ("tags", "text"): '{"tokens": ["Ada", "met", "Bob"], "labels": ["NAME", "O", "NAME"]}',
    ("class", "features"): '{"features": [[0.1, 0.7], [0.3, 0.2]], "label": "sport"}',
    ("tags", "features"): '{"features": [[0.1, 0.7], [0.3, 0.2]], "labels": ["NAME", "O"]}',
}


class _Line(Struct):
    """A line of a file. Other fields are ignored."""

    text: str | None = None
    tokens: list[str] | None = None
    features: list[list[float]] | None = None
    label: Label | None = None
    labels: list[Label | None] | None = None


@dataclass(frozen=True)
class _Example:
    """An example that is not encoded yet.

    Args:
        where: `file:line`.
        parts: the text as a whole, or its words.
        features: numbers [t, d] instead.
        labels: the name of a label for each part; None for no label.
    """

    where: str
    parts: tuple[str, ...]
    features: Array | None
    labels: tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled examples.

    Args:
        inputs: the token ids [t], or the features [t, d], of each example.
        labels: the label of each example, [], or of each of its tokens, [t]; `NO_LABEL` for none.
        names: the names of the labels.
        name: of the data, in messages.
    """

    inputs: tuple[Array, ...] = field(repr=False)
    labels: tuple[Array, ...] = field(repr=False)
    names: tuple[str, ...]
    name: str = "data"

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.inputs)

    @cached_property
    def digest(self) -> str:
        """The digest of names and examples, in order, in hexadecimal."""
        parts = [_digest(x, y) for x, y in zip(self.inputs, self.labels, strict=True)]
        return hashlib.sha256("\n".join([*self.names, *parts]).encode()).hexdigest()

    @typed
    def split(self, share: float) -> tuple[Labelled, Labelled]:
        """What to train on and what to hold out: about `share` of the examples, the same ones on every call.

        The order of their digests decides, which has to do with neither place nor label. Equal inputs stay together.

        Raises:
            SettingError: the share is not between 0 and 1.
            InputError: there are too few examples for two parts.
        """
        if not 0 < share < 1:
            raise SettingError(f"the share that is held out must be between 0 and 1, got {share}", where="held_out")
        digests = [_digest(x) for x in self.inputs]
        held = set[int]()
        for _, equal in groupby(sorted(range(len(self)), key=digests.__getitem__), key=digests.__getitem__):
            held |= {*equal}
            if len(held) >= share * len(self):
                break
        if len(held) == len(self):
            raise InputError(
                f"{counted(len(self), 'example')} {'is' if len(self) == 1 else 'are'} too few to hold {share:.2%} out",
                where=self.name,
                hint=f"give more examples, or some to validate on: {option('validation', '', flag='--valid')}",
            )
        return self._only([n for n in range(len(self)) if n not in held]), self._only(sorted(held))

    def _only(self, numbers: Sequence[int]) -> Labelled:
        inputs, labels = (tuple(rows[number] for number in numbers) for rows in (self.inputs, self.labels))
        return replace(self, inputs=inputs, labels=labels)


@typed
def labelled(
    paths: Paths,
    task: str,
    tokenizer: Tokenizer | None,
    names: Sequence[str] = (),
    width: int | None = None,
    progress: Progress = lambda *_: None,
) -> Labelled:
    """The labelled examples in files, and in the `.jsonl` files of folders.

    Words are encoded with a space between them, and the last token of a word has its label.

    Args:
        paths: files and folders.
        task: `class` for a label of each example, `tags` for a label of each of its words, or rows of features.
        tokenizer: makes the tokens; None for a model of features.
        names: the names of the labels; those of the data, sorted, if there are none.
        width: numbers per row of features; None for a model of tokens.
        progress: called with the progress.

    Raises:
        InputError: with every file that cannot be read, and every line that is wrong: its JSON, its fields, the number
            of its labels, a label without a name, nothing to read.
    """
    problems: list[str] = []
    examples = list(_examples(paths, task, width, problems, progress))
    names = tuple(names) or _sorted({name for example in examples for name in example.labels if name is not None})
    known = {*names}
    for example in examples:
        unknown = [name for name in dict.fromkeys(example.labels) if name is not None and name not in known]
        problems += [f"{example.where}: there is no label {name!r}{suggest(name, names)}" for name in unknown]
    encoded = [] if problems else _encoded(examples, task, tokenizer, problems)
    if not problems and not any(name is not None for example in examples for name in example.labels):
        problems.append("no example has a label")
    if problems:
        raise InputError(listed(problems), where="data", hint=_hint(task, width))
    places = {name: number for number, name in enumerate(names)}
    return Labelled(
        tuple(ids for ids, _ in encoded),
        tuple(_numbered(example, ends, len(ids), task, places) for example, (ids, ends) in zip(examples, encoded)),
        tuple(names),
        examples[0].where.rpartition(":")[0],
    )


def _hint(task: str, width: int | None) -> str:
    """A line as the model needs it."""
    return f"give lines such as {EXAMPLES[task, 'text' if width is None else 'features']}"


def label_names(paths: Paths, task: str, width: int | None = None) -> tuple[str, ...]:
    """The names of the labels in files, numbers in their order and before others. Raises InputError."""
    problems: list[str] = []
    examples = _examples(paths, task, width, problems)
    used = {name for example in examples for name in example.labels if name is not None}
    if problems:
        raise InputError(listed(problems), where="data", hint=_hint(task, width))
    return _sorted(used)


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))


def _examples(
    paths: Paths, task: str, width: int | None, problems: list[str], progress: Progress = lambda *_: None
) -> Iterator[_Example]:
    """The examples that can be used. Appends what is wrong with the others to the problems."""
    files = files_of(paths, SUFFIX, problems)
    count = 0
    for done, path in enumerate(files):
        progress("reading", done, len(files))
        with gathered(problems), opened(path, InputError) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                count += 1
                where = f"{path}:{number}"
                with gathered(problems):
                    content = parse_json(line, where, InputError, _Line, problem="this is no labelled example")
                    yield _example(content, where, task, width)
    if not count and not problems:
        problems.append(f"no example is given in {', '.join(map(str, files)) or 'no file'}")


def _example(line: _Line, where: str, task: str, width: int | None) -> _Example:
    """The example of a line. Raises InputError with every problem of it."""
    problems = [*_field_problems(line, task, width)]
    features = None
    parts = tuple(line.tokens or ())
    if line.features is not None and width is not None:
        features, faults = _features(line.features, width)
        problems += faults
    elif line.text is not None:
        problems += [] if line.text.strip() else ["its text is empty"]
        parts = tuple(line.text.split()) if task == "tags" else (line.text,)
    elif line.tokens is not None:
        problems += [] if parts else ["it has no tokens"]
        problems += [f"token {number} is empty" for number, part in enumerate(parts) if not part.strip()]
    count = len(line.features or parts)
    labels = [line.label] if task == "class" else line.labels or []
    if task == "tags" and line.labels is not None and len(labels) != count:
        problems.append(f"it has {counted(len(labels), 'label')} for {counted(count, 'row' if width else 'token')}")
    named = [None if label is None else _named(label) for label in labels]
    problems += [
        f"a label must have 1 to {LONGEST_NAME} characters that can be printed, got {shown(name)}"
        for name in dict.fromkeys(named)
        if name is not None and not (name.strip() and name.isprintable() and len(name) <= LONGEST_NAME)
    ]
    if problems:
        raise InputError(problems, where=where)
    if task == "class" and features is None:
        parts = (" ".join(parts),)
    return _Example(where, parts, features, tuple(named))


def _field_problems(line: _Line, task: str, width: int | None) -> Iterator[str]:
    """Missing fields, and fields of another kind of data."""
    contents = [name for name in CONTENTS if getattr(line, name) is not None]
    wanted = CONTENTS[:2] if width is None else CONTENTS[2:]
    if len(contents) != 1 or contents[0] not in wanted:
        yield f"it must have {' or '.join(wanted)}, got {' and '.join(contents) or 'none'}"
    if getattr(line, FIELDS[task]) is None:
        other = next(name for name in FIELDS.values() if name != FIELDS[task])
        yield f"it has no {FIELDS[task]}{'' if getattr(line, other) is None else f', but {other}'}"


def _features(rows: list[list[float]], width: int) -> tuple[Array | None, list[str]]:
    """The features [t, d], and their problems."""
    odd = [number for number, row in enumerate(rows) if len(row) != width]
    if odd:
        return None, [f"row {odd[0]} of its features has {counted(len(rows[odd[0]]), 'number')}, wanted {width}"]
    with np.errstate(over="ignore"):
        features = np.array(rows, np.float32).reshape(len(rows), width)
    problems = [] if rows else ["it has no features"]
    return features, problems if np.isfinite(features).all() else [*problems, "its features are not finite in float32"]


def _named(label: Label) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)


def _encoded(
    examples: Sequence[_Example], task: str, tokenizer: Tokenizer | None, problems: list[str]
) -> list[tuple[Array, Array]]:
    """The input of each example, and the place of the last token of each of its parts."""
    if tokenizer is None:
        return [(rows, np.arange(len(rows))) for rows in (example.features for example in examples) if rows is not None]
    texts = [f" {part}" if number else part for example in examples for number, part in enumerate(example.parts)]
    encodings = iter(tokenizer.encode_each(texts))
    encoded = []
    for example in examples:
        pieces = [next(encodings) for _ in example.parts]
        if empty := [part for part, piece in zip(example.parts, pieces, strict=True) if not len(piece)]:
            problems.append(f"{example.where}: {empty[0]!r} has no tokens")
        ids = np.concatenate(pieces).astype(np.int64)
        encoded.append((ids, np.cumsum([len(piece) for piece in pieces]) - 1))
    return encoded


def _numbered(example: _Example, ends: Array, length: int, task: str, places: dict[str, int]) -> Array:
    """The label of an example, [], or those of its tokens, [t]."""
    numbers = np.array([NO_LABEL if name is None else places[name] for name in example.labels], np.int64)
    if task == "class":
        return numbers.reshape(())
    labels = np.full(length, NO_LABEL, np.int64)
    labels[ends] = numbers
    return labels


def _digest(*arrays: Array) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
