"""A new training run from the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flashir.cli import source
from flashir.errors import SettingError
from flashir.ir.graph import Attr
from flashir.models.end_tokens import NONE, Reading
from flashir.models.load import accepted
from flashir.models.load import model as build
from flashir.train.data import LABELLED, Tokenizer, documents, label_names
from flashir.train.distributed import Meeting, Report
from flashir.train.feed import Data
from flashir.train.recipe import Recipe, recipe_of, settings_of
from flashir.train.run_folder import RunFolder, run_around
from flashir.train.setup import begin, tokenizer_of
from flashir.train.task import feature_width, task_of

PACKED: Mapping[str, Attr] = {"segments": "token"}
"""The settings of a built-in model for packed rows, unless the user says otherwise."""
HEAD_BIAS: Mapping[str, Attr] = {"head_bias": True}
"""Those for logits that begin at the frequencies of tokens."""


@dataclass(frozen=True)
class NewRun:
    """The options of a new run.

    Args:
        model: MODEL as typed.
        settings, size, task: options of a built-in model.
        recipe: a named recipe, or a file.
        overrides: settings that override the file.
        batch: rows per batch, instead of tokens per batch.
        out: the folder of the run.
        choices: `policy`, `chunk`, `cumsum`, `dtype`.
    """

    model: str
    settings: list[str] | None
    size: str | None
    task: str | None
    recipe: str | None
    overrides: Mapping[str, Any]
    batch: int | None
    out: Path | None
    choices: Mapping[str, Any]

    def begun(self, meeting: Meeting, report: Report) -> tuple[RunFolder, Data | None]:
        """Create the run in the first process. Returns its folder, and in the first process its data."""
        read = {} if self.batch is None else settings_of(self.recipe)
        length = read.get("seq_len", Recipe.seq_len)
        recipe = recipe_of(self.recipe, with_batch(self.overrides, self.batch, length))
        folder = self._folder
        meeting.join(recipe.target)

        def work(report: Report) -> Data | None:
            return self._create(recipe, folder, report) if meeting.processes.is_first else None

        data = meeting.together(work, report)
        return RunFolder(folder), data

    def interrupted(self) -> str:
        """The message if the start of the run is interrupted."""
        folder = self._folder
        return RunFolder(folder).interrupted() if folder.exists() else "no run was created; tokenised text is kept"

    @property
    def _folder(self) -> Path:
        return self.out or Path(default_name(self.model))

    def _create(self, recipe: Recipe, folder: Path, report: Report) -> Data:
        """Create the folder, after all checks."""
        loaded = source.find(self.model, self.settings, self.size, self.task)
        if recipe.tokenizer == Recipe.tokenizer and "tokenizer" not in self.overrides and loaded.tokenizer is not None:
            recipe = _reading_on(replace(recipe, tokenizer=str(loaded.tokenizer)), loaded.reading)
        task, width = task_of(loaded.model), feature_width(loaded.model)
        if task in LABELLED and not recipe.labels:
            recipe = replace(recipe, labels=loaded.labels or label_names(recipe.data, task, width))
        used = None if width is not None else _tokenizer(recipe, task, report)
        if loaded.kind == "zoo" and used is not None:
            vocab = used.needs("lm" if task in LABELLED else task) if used.is_bytes else used.vocab
            defaults = {"vocab": vocab, **accepted(self.model, _usual(recipe, task))}
            stated = source.read_settings(self.settings or (), self.size, self.task)
            loaded = replace(loaded, model=build(self.model, **(defaults | stated)))
        return begin(loaded.model, recipe, used, folder, loaded.params, report, **self.choices)[1]


def _usual(recipe: Recipe, task: str) -> dict[str, Attr]:
    """The settings of a built-in model for a task, unless the user says otherwise."""
    if task in LABELLED:
        return {"mask": True, "labels": len(recipe.labels)}
    return {**PACKED, **(HEAD_BIAS if recipe.token_frequencies else {})}


def _tokenizer(recipe: Recipe, task: str, report: Report) -> Tokenizer:
    """The tokenizer of the recipe. Raises SettingError if it is to be trained on labelled examples."""
    if task in LABELLED and recipe.tokenizer.startswith("bpe:"):
        raise SettingError(
            f"{recipe.tokenizer} is trained on text, and the data are labelled examples",
            where="tokenizer",
            hint="give bytes, a tokenizer.json, or a model that brings its tokenizer",
        )
    return tokenizer_of(recipe.tokenizer, lambda: documents(recipe.data, report), recipe.reading.document_end)


def _reading_on(recipe: Recipe, before: Reading | None) -> Recipe:
    """The recipe, with settings for reading texts taken from earlier training if it has none."""
    if before is None:
        return recipe
    end = recipe.document_end or before.document_end or NONE
    special = before.special_tokens if recipe.special_tokens is None else recipe.special_tokens
    return replace(recipe, document_end=end, special_tokens=special)


def with_batch(settings: Mapping[str, Any], batch: int | None, length: int) -> dict[str, Any]:
    """The settings with tokens per batch computed from rows per batch; `length` is the default row length."""
    if batch is None:
        return dict(settings)
    source.only_one("--batch", batch, "--tokens", settings.get("tokens"))
    return {**settings, "tokens": batch * settings.get("seq_len", length)}


def default_name(model: str) -> str:
    """The default folder of a run: `flash-run` for flash, `books-next` for the run books/ or a checkpoint in it."""
    around = run_around(Path(model))
    return f"{Path(model).stem}-run" if around is None else f"{around.name}-next"
