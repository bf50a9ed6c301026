"""The recipe of a run: every setting of training.

The optimiser and the batch are those of the paper (Tables 5 and 6). The start and the learning rate depend on the width
of the model, which docs/decisions/075-training-defaults.md argues; the recipe `paper` has those of the paper too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from flashir.backends.training import AdamW
from flashir.errors import InputError, SettingError, gathered, spoken, suggest
from flashir.files.atomic import atomic_write
from flashir.files.foreign import SMALL, parse_toml, read_text
from flashir.files.mismatch import mismatch
from flashir.ir.op import Scheme
from flashir.models.end_tokens import NONE, Reading
from flashir.train.schedule import Schedule

Count = Annotated[int, Meta(ge=1, le=2**40)]
Whole = Annotated[int, Meta(ge=0, le=2**40)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(ge=0, le=1e6)]

Warmup = Whole | Share

WARMUP = 10_000 / 125_000
"""The fraction of the steps that warm up in Tables 5 and 6."""
RATE, RATED_WIDTH = 7e-4, 768
"""The learning rate of Tables 5 and 6, and the width of the model that it was chosen for (Tables 7 and 8)."""
PAPER = {"init": "paper", "token_frequencies": False, "learning_rate": RATE}
RECIPES: Mapping[str, Mapping[str, Any]] = {"paper": PAPER}
"""Recipes by name: settings that differ from the defaults."""
SAVES, SELDOM = 50, 1000
WHERE = "recipe"
UNREAD = "cannot read the recipe"
FREE = {"free": True}  # may change when a run is resumed, because the curve does not depend on it


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. `settled` replaces settings that are None.

    Args:
        data: files and folders of training text, or of labelled examples for a model that predicts labels.
        validation: files and folders of validation text. Without any, a part of `data` is held out.
        held_out: the fraction of `data` to hold out if there is no `validation`.
        tokenizer: `bytes`, `bpe:N` (trained on the data, N tokens), or a tokenizer file.
        document_end: the token after each document; `none` for no token, None for that of the tokenizer if it has one.
        special_tokens: whether the names of special tokens in a text are read as these tokens, or as plain text.
        labels: the names of the labels, in the order of the scores of the model; () for those of the data, sorted.
        target: the target to train on, such as `torch:cpu`.
        seq_len: tokens per row; 512 to 8192 in Tables 5 and 6.
        tokens: tokens per batch, over all rows; 2^18 in Tables 5 and 6.
        rows: rows of a batch that are computed together, for gradient accumulation; None for as many as fit in memory.
        steps: optimiser steps; 125,000 in Tables 5 and 6. A resumed run may have more.
        init: how parameters start: `fan_in`, by the inputs of each matrix, or `paper`, 0.02 for every weight.
        token_frequencies: begin the logits at the log frequencies of the tokens in the data, if the model has a bias
            for them.
        warmup: warm-up steps, or below 1 a fraction of `steps`; 10,000 in Tables 5 and 6. None for the same fraction
            as there, 8%.
        learning_rate: the peak learning rate, with linear decay; 7e-4 in Tables 5 and 6, for a width of 768. None for
            that rate in inverse proportion to the width of the model.
        beta1, beta2, epsilon, weight_decay: settings of AdamW; 0.9, 0.999, 1e-6 and 0.01 in Tables 5 and 6.
        clip: the largest L2 norm of the gradient of one parameter tensor; 0.1 in Tables 5 and 6 for all models but the
            vanilla Transformer. 0 disables clipping.
        remat: recompute activations in the backward pass instead of saving them.
        seed: the seed of the parameters, of the order of the data, and of the masks of an MLM.
        validate_every, save_every: steps between validations and between checkpoints; None for 50 per run, but at most
            1000 steps apart.
        validation_tokens: the number of tokens of the held-out text that a validation evaluates.
        keep: the number of newest checkpoints to keep.
    """

    data: tuple[str, ...] = field(default=(), metadata=FREE)
    validation: tuple[str, ...] = field(default=(), metadata=FREE)
    held_out: Share = 0.01
    tokenizer: str = field(default="bytes", metadata=FREE)
    document_end: str | None = None
    special_tokens: bool | None = None
    labels: tuple[str, ...] = ()
    target: str = field(default="torch:cpu", metadata=FREE)
    seq_len: Count = 1024
    tokens: Count = 2**18
    rows: Count | None = field(default=None, metadata=FREE)
    steps: Count = field(default=125_000, metadata={"grows": True})
    init: Scheme = "fan_in"
    token_frequencies: bool = True
    warmup: Warmup | None = None
    learning_rate: Rate | None = None
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
            raise SettingError(problems, where=WHERE, hint=_hint())

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
        """How texts are read. Recipes of earlier versions do not have these settings and read texts unchanged."""
        end = None if self.document_end in (None, NONE) else self.document_end
        return Reading(end, bool(self.special_tokens))

    @property
    def batch(self) -> int:
        """Rows per batch."""
        return self.tokens // self.seq_len

    @property
    def accumulate(self) -> int:
        """Parts per batch, which are computed one after the other."""
        return self.batch // (self.rows or self.batch)

    def validates(self, number: int) -> bool:
        """Whether a validation follows this step. The last step is always validated."""
        return number % (self.validate_every or 1) == 0 or number == self.steps

    def saves(self, number: int) -> bool:
        """Whether a checkpoint follows this step. The last step is always saved."""
        return number % (self.save_every or 1) == 0 or number == self.steps

    @property
    def validation_parts(self) -> int:
        """Parts of batches per validation."""
        return max(1, self.validation_tokens // (self.seq_len * (self.rows or self.batch)))

    @property
    def optimiser(self) -> AdamW:
        """The optimiser, without the learning rate, which is in `schedule`."""
        decay = {name: getattr(self, name) for name in ("beta1", "beta2", "epsilon", "weight_decay")}
        return AdamW(**decay, clip=self.clip or None)

    @property
    def schedule(self) -> Schedule:
        """The learning rate of each step. The recipe must be settled."""
        assert self.learning_rate is not None
        return Schedule(self.learning_rate, self._warmup(), self.steps)

    def _warmup(self) -> int:
        """The number of warm-up steps."""
        wanted = WARMUP if self.warmup is None else self.warmup
        return round(wanted * self.steps) if isinstance(wanted, float) else wanted

    def settled(self, rows: int, width: int) -> Recipe:
        """The recipe with a number for each setting that is None.

        Args:
            rows: the rows of a batch that are computed together.
            width: the width of the model.
        """
        interval = min(SELDOM, -(-self.steps // SAVES))
        defaults: dict[str, Any] = {
            "rows": rows,
            "learning_rate": RATE * RATED_WIDTH / width,
            "validate_every": interval,
            "save_every": interval,
        }
        chosen = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, warmup=self._warmup(), **chosen)

    def located(self) -> Recipe:
        """The recipe with absolute paths, so that the run can be resumed from another working directory."""
        return replace(self, data=_absolute(self.data), validation=_absolute(self.validation))

    def changed(self, **settings: Any) -> Recipe:
        """The recipe of a resumed run, with some settings changed.

        More `steps` go further: from the next step on, the learning rate decays to the new end.

        Raises:
            SettingError: settings on which the curve so far depends would change.
        """
        free = {setting.name for setting in fields(self) if setting.metadata.get("free")}
        grows = {setting.name for setting in fields(self) if setting.metadata.get("grows")}
        problems = [
            f"{name} is {before} in this run{' and may only grow' if name in grows else ''}, got {value}"
            for name, value in settings.items()
            if (before := getattr(self, name)) != value and name not in free and not (name in grows and value > before)
        ]
        if problems:
            raise SettingError(
                problems,
                where="these settings of a run cannot change",
                hint="start a new run from one of its checkpoints"
                + spoken("", ": flashir train RUN/checkpoints/step-.. --data .."),
            )
        return replace(self, **settings)

    def write(self, path: Path) -> None:
        """Write the recipe as TOML. Raises ArtefactError."""
        lines = [f"{name} = {_toml(value)}\n" for name, value in asdict(self).items() if value is not None]
        atomic_write(path, lambda file: file.write("".join(lines).encode()))


def _hint() -> str:
    return spoken(
        "the settings are the fields of flashir.train.recipe.Recipe",
        "`flashir train --help` lists the settings; an option overrides the file",
    )


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, checked.

    Raises:
        InputError: the file cannot be read, or is not TOML.
        SettingError: settings are unknown or invalid.
    """
    text = read_text(path, InputError, largest=SMALL, problem=UNREAD)
    settings = parse_toml(text, path, InputError, problem=UNREAD)
    problems = _mistyped(settings)
    if problems:
        raise SettingError(problems, where=str(path), hint=_hint())
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def settings_of(recipe: str | Path | None) -> Mapping[str, Any]:
    """The settings of a named recipe, or of a file. Raises as `read_recipe`, and SettingError if there is neither."""
    if recipe is None:
        return {}
    if str(recipe) in RECIPES:
        return RECIPES[str(recipe)]
    if not Path(recipe).exists():
        raise SettingError(f"there is no recipe and no file {str(recipe)!r}{suggest(recipe, RECIPES)}")
    return read_recipe(Path(recipe))


def recipe_of(recipe: str | Path | None, overrides: Mapping[str, Any]) -> Recipe:
    """A named recipe or the one in a file, if any, with overrides.

    Raises as `read_recipe`, with all problems at once.
    """
    problems: list[str] = []
    read: Mapping[str, Any] = {}
    with gathered(problems):
        read = settings_of(recipe)
    problems += _mistyped(overrides)
    if problems:
        raise SettingError(problems, where=WHERE, hint=_hint())
    return Recipe(**{**read, **overrides})


def _absolute(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(Path(path).absolute()) for path in paths)


@cache
def _types() -> Mapping[str, Any]:
    return get_type_hints(Recipe, include_extras=True)


def _mistyped(settings: Mapping[str, Any]) -> list[str]:
    """The problems of unknown settings and of values of the wrong type or out of range."""
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
    """A value as TOML. For these types its syntax is that of JSON."""
    listed = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
    return json.dumps(listed, ensure_ascii=False)  # TOML has no surrogate pairs
