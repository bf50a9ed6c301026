"""A new run, from what a command line says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flashir.cli import source
from flashir.models.end_tokens import NONE, Reading
from flashir.train.data import documents
from flashir.train.distributed import Meeting, Told
from flashir.train.recipe import Recipe, read_recipe, recipe_of
from flashir.train.run_folder import RunFolder, run_around
from flashir.train.setup import Data, begin, task_of, tokenizer_of


@dataclass(frozen=True)
class NewRun:
    """What is said of it.

    Args:
        model: MODEL as it was typed.
        settings, size, task: of a model of the zoo.
        recipe: a file of settings.
        given: settings that override it.
        batch: rows of a batch, instead of its tokens.
        out: its folder.
        choices: `policy`, `chunk`, `cumsum`, `dtype`.
    """

    model: str
    settings: list[str] | None
    size: str | None
    task: str | None
    recipe: Path | None
    given: Mapping[str, Any]
    batch: int | None
    out: Path | None
    choices: Mapping[str, Any]

    def begun(self, meeting: Meeting, told: Told) -> tuple[RunFolder, Data | None]:
        """Its folder, which the first process alone makes, and its data where they are at hand."""
        read = {} if self.recipe is None or self.batch is None else read_recipe(self.recipe)
        length = read.get("seq_len", Recipe.seq_len)
        recipe = recipe_of(self.recipe, with_batch(self.given, self.batch, length))
        folder = self._folder
        meeting.join(recipe.target)

        def work(told: Told) -> Data | None:
            return self._made(recipe, folder, told) if meeting.processes.is_first else None

        data = meeting.together(work, told)
        return RunFolder(folder), data

    def said(self) -> str:
        """What there is of it, for who interrupts its beginning."""
        folder = self._folder
        return RunFolder(folder).said() if folder.exists() else "no run was begun; the text that is tokenised is kept"

    @property
    def _folder(self) -> Path:
        return self.out or Path(default_name(self.model))

    def _made(self, recipe: Recipe, folder: Path, told: Told) -> Data:
        """All that can be wrong is found before the folder is made."""
        found = source.find(self.model, self.settings, self.size, self.task)
        if recipe.tokenizer == Recipe.tokenizer and "tokenizer" not in self.given and found.tokenizer is not None:
            recipe = _reading_on(replace(recipe, tokenizer=str(found.tokenizer)), found.reading)
        used = tokenizer_of(recipe.tokenizer, lambda: documents(recipe.data, told), recipe.reading.document_end)
        if found.kind == "zoo" and "vocab" not in source.read_settings(self.settings or ()):
            vocab = used.needs(task_of(found.model)) if used.is_bytes else used.vocab
            found = source.find(self.model, [*(self.settings or ()), f"vocab={vocab}"], self.size, self.task)
        return begin(found.model, recipe, used, folder, found.params, told, **self.choices)[1]


def _reading_on(recipe: Recipe, before: Reading | None) -> Recipe:
    """The recipe, which reads texts as training has before where it does not say how."""
    if before is None:
        return recipe
    end = recipe.document_end or before.document_end or NONE
    special = before.special_tokens if recipe.special_tokens is None else recipe.special_tokens
    return replace(recipe, document_end=end, special_tokens=special)


def with_batch(given: Mapping[str, Any], batch: int | None, length: int) -> dict[str, Any]:
    """The settings with rows of a batch as tokens, of that length where they say no other."""
    if batch is None:
        return dict(given)
    source.only_one("--batch", batch, "--tokens", given.get("tokens"))
    return {**given, "tokens": batch * given.get("seq_len", length)}


def default_name(model: str) -> str:
    """The folder of a run without -o: `flash-run` of flash, `books-next` of books/ or of a checkpoint in it."""
    around = run_around(Path(model))
    return f"{Path(model).stem}-run" if around is None else f"{around.name}-next"
