"""The recipe of a run: every setting of training, with the paper's numbers (Tables 5 and 6) where it has some."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from flashir.backends.protocols import AdamW
from flashir.errors import InputError, SettingError, gathered, spoken, suggest
from flashir.files.atomic import atomic_write
from flashir.files.foreign import SMALL, parse_toml, read_text
from flashir.files.mismatch import mismatch
from flashir.models.end_tokens import NONE, Reading
from flashir.train.schedule import Schedule

Count = Annotated[int, Meta(ge=1, le=2**40)]
Whole = Annotated[int, Meta(ge=0, le=2**40)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(ge=0, le=1e6)]

WARMUP = 10_000 / 125_000
"""The share of the steps that warms up, in Tables 5 and 6."""
SAVES, SELDOM = 50, 1000
WHERE = "recipe"
UNREAD = "cannot read the recipe"
FREE = {"free": True}  # may change when a run is resumed: the curve does not depend on it


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. None stands for what `settled` puts in.

    Args:
        data: files and folders of text to learn from.
        validation: files and folders of text to measure the loss on; without any, a part of `data` is held out.
        held_out: the share of `data` that is, where there is no `validation`.
        tokenizer: `bytes`, `bpe:N` (trained on the data, N tokens), or the file of one.
        document_end: the token that documents end with, `none` for no such token; None: that of the tokenizer, if any.
        special_tokens: whether special tokens are read where a text names them; without, their names are text.
        target: where to train, such as `torch:cpu`.
        seq_len: tokens a row; 512 to 8192 in Tables 5 and 6.
        tokens: of the batch of a step, over all rows; 2^18 in Tables 5 and 6.
        rows: of the batch that are computed together, the rest after them; None: as many as memory holds well.
        steps: of the optimiser; 125,000 in Tables 5 and 6.
        warmup: steps until the peak; 10,000 in Tables 5 and 6. None: the same share of all steps, 8%.
        learning_rate: at the peak; 7e-4 in Tables 5 and 6, with linear decay.
        beta1, beta2, epsilon, weight_decay: of AdamW; 0.9, 0.999, 1e-6 and 0.01 in Tables 5 and 6.
        clip: the largest L2 norm of the gradient in one parameter tensor; 0.1 in Tables 5 and 6, there for all models
            but the vanilla Transformer. 0: none.
        remat: compute activations again in the backward pass instead of keeping them.
        seed: of the parameters, of the order of the data, and of what an MLM masks.
        validate_every, save_every: steps between two validations, two checkpoints; None: 50 in a run, of 1000 steps
            at most.
        validation_tokens: how many tokens of the held-out text a validation takes.
        keep: so many checkpoints are kept, the newest.
    """

    data: tuple[str, ...] = field(default=(), metadata=FREE)
    validation: tuple[str, ...] = field(default=(), metadata=FREE)
    held_out: Share = 0.01
    tokenizer: str = field(default="bytes", metadata=FREE)
    document_end: str | None = None
    special_tokens: bool | None = None
    target: str = field(default="torch:cpu", metadata=FREE)
    seq_len: Count = 1024
    tokens: Count = 2**18
    rows: Count | None = field(default=None, metadata=FREE)
    steps: Count = 125_000
    warmup: Whole | None = None
    learning_rate: Rate = 7e-4
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Rate = 1e-6
    weight_decay: Rate = 0.01
    clip: Rate = 0.1
    remat: bool = field(default=False, metadata=FREE)
    seed: Whole = 0
    validate_every: Count | None = None
    save_every: Count | None = field(default=None, metadata=FREE)
    validation_tokens: Count = 2**17
    keep: Count = field(default=3, metadata=FREE)

    def __post_init__(self) -> None:
        problems = _mistyped(asdict(self)) or list(self._contradictions())
        if problems:
            raise SettingError(problems, where=WHERE, hint=_mend())

    def _contradictions(self) -> Iterator[str]:
        batch, rest = divmod(self.tokens, self.seq_len)
        if rest:
            near = max(1, round(self.tokens / self.seq_len)) * self.seq_len
            yield f"tokens must be a multiple of seq_len, {self.seq_len}, such as {near}, got {self.tokens}"
        elif self.rows is not None and batch % self.rows:
            near = next(rows for rows in range(min(self.rows, batch), 0, -1) if batch % rows == 0)
            yield f"rows must divide the {batch} rows of a batch, as {near} does, got {self.rows}"
        if self.warmup is not None and self.warmup > self.steps:
            yield f"warmup must be no more than the {self.steps} steps, got {self.warmup}"

    @property
    def reading(self) -> Reading:
        """How texts are read. A run whose recipe says nothing of it began before there was a choice: as they are."""
        end = None if self.document_end in (None, NONE) else self.document_end
        return Reading(end, bool(self.special_tokens))

    @property
    def batch(self) -> int:
        """Rows of the batch of a step."""
        return self.tokens // self.seq_len

    @property
    def accumulate(self) -> int:
        """Parts of the batch of a step, which are computed one after the other."""
        return self.batch // (self.rows or self.batch)

    def validates(self, number: int) -> bool:
        """Whether a validation follows the step of that number; one does at the end."""
        return number % (self.validate_every or 1) == 0 or number == self.steps

    def saves(self, number: int) -> bool:
        """Whether a checkpoint follows the step of that number; one does at the end."""
        return number % (self.save_every or 1) == 0 or number == self.steps

    @property
    def validation_parts(self) -> int:
        """Parts of batches that a validation takes."""
        return max(1, self.validation_tokens // (self.seq_len * (self.rows or self.batch)))

    @property
    def optimiser(self) -> AdamW:
        """The optimiser; the schedule has the learning rate of each step."""
        decay = {name: getattr(self, name) for name in ("beta1", "beta2", "epsilon", "weight_decay")}
        return AdamW(**decay, clip=self.clip or None)

    @property
    def schedule(self) -> Schedule:
        """The learning rate of each step, of a recipe that is settled."""
        return Schedule(self.learning_rate, self.warmup or 0, self.steps)

    def settled(self, rows: int) -> Recipe:
        """The recipe with a number wherever there was None; `rows` where there were none."""
        often = min(SELDOM, -(-self.steps // SAVES))
        chosen: dict[str, Any] = {
            "warmup": round(WARMUP * self.steps),
            "rows": rows,
            "validate_every": often,
            "save_every": often,
        }
        return replace(self, **{name: value for name, value in chosen.items() if getattr(self, name) is None})

    def located(self) -> Recipe:
        """The recipe with paths that mean the same wherever the run goes on."""
        return replace(self, data=_absolute(self.data), validation=_absolute(self.validation))

    def changed(self, **given: Any) -> Recipe:
        """The recipe of a run that goes on, with some settings changed.

        Raises:
            SettingError: every setting without which the run would have been another.
        """
        free = {each.name for each in fields(self) if each.metadata.get("free")}
        problems = [
            f"{name} is {getattr(self, name)} in this run, got {value}"
            for name, value in given.items()
            if name not in free and getattr(self, name) != value
        ]
        if problems:
            raise SettingError(
                problems,
                where="a run goes on as it began",
                hint="begin another from a checkpoint of it"
                + spoken("", ": flashir train RUN/checkpoints/step-.. --data .."),
            )
        return replace(self, **given)

    def write(self, path: Path) -> None:
        """Write it as TOML. Raises ArtefactError."""
        lines = [f"{name} = {_toml(value)}\n" for name, value in asdict(self).items() if value is not None]
        atomic_write(path, lambda file: file.write("".join(lines).encode()))


def _mend() -> str:
    return spoken(
        "the settings are the fields of flashir.train.recipe.Recipe",
        "`flashir train --help` lists the settings; an option overrides what a file says",
    )


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, checked.

    Raises:
        InputError: the file cannot be read, or is no TOML.
        SettingError: every setting that is unknown or wrong.
    """
    text = read_text(path, InputError, largest=SMALL, problem=UNREAD)
    found = parse_toml(text, path, InputError, problem=UNREAD)
    problems = _mistyped(found)
    if problems:
        raise SettingError(problems, where=str(path), hint=_mend())
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def recipe_of(file: Path | None, given: Mapping[str, Any]) -> Recipe:
    """The recipe of a file, if any, with the settings that are given over it. Raises as `read_recipe`, all at once."""
    problems: list[str] = []
    read: Mapping[str, Any] = {}
    with gathered(problems):
        read = {} if file is None else read_recipe(file)
    problems += _mistyped(given)
    if problems:
        raise SettingError(problems, where=WHERE, hint=_mend())
    return Recipe(**{**read, **given})


def _absolute(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(Path(path).absolute()) for path in paths)


@cache
def _types() -> Mapping[str, Any]:
    return get_type_hints(Recipe, include_extras=True)


def _mistyped(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with each setting on its own."""
    problems = []
    for name, value in settings.items():
        if name not in _types():
            problems.append(f"there is no setting {name!r}{suggest(name, _types())}")
            continue
        try:
            msgspec.convert(value, _types()[name])
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {mismatch(error).partition(', got ')[0]}, got {value!r}")
    return problems


def _toml(value: object) -> str:
    """A value as TOML, which writes these as JSON does."""
    return json.dumps(list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value)
