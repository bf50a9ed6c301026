"""Labelled examples as the data of a run: some to learn from, and held-out ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flashir.backends.training import NO_LABEL
from flashir.errors import SettingError
from flashir.ir import Graph
from flashir.train.data import Labelled, LabelledBatches, Tokenizer, labelled
from flashir.train.distributed import Report
from flashir.train.feed import log_shares
from flashir.train.recipe import Recipe
from flashir.train.task import feature_width, mask_inputs, scores_of, task_of


@dataclass(frozen=True)
class Examples:
    """The training examples and the held-out examples."""

    train: Labelled
    held_out: Labelled

    @property
    def digests(self) -> Mapping[str, str]:
        """The digests of the two sets of examples."""
        return {"data": self.train.digest, "held_out": self.held_out.digest}

    def feeds(self, model: Graph, recipe: Recipe) -> tuple[LabelledBatches, LabelledBatches]:
        """The parts of batches for a model, in order. Raises InputError if the examples do not fit it."""
        shape = recipe.rows or recipe.batch, recipe.seq_len, recipe.seed
        return labelled_batches(self.train, model, *shape), labelled_batches(self.held_out, model, *shape)

    def log_frequencies(self, size: int) -> npt.NDArray[np.float32]:
        """Of each label of the training examples; see `log_shares`."""
        labels = np.concatenate([labels.reshape(-1) for labels in self.train.labels])
        return log_shares(np.bincount(labels[labels != NO_LABEL], minlength=size))


def examples(model: Graph, recipe: Recipe, tokenizer: Tokenizer | None, report: Report) -> Examples:
    """The examples of a recipe for a model; the tokenizer is None for a model of features.

    Raises:
        SettingError: the number of labels is not that of the model.
        InputError: with all problems of the files.
    """
    train = read_examples(recipe.data, model, tokenizer, recipe.labels, report)
    if recipe.validation:
        return Examples(train, read_examples(recipe.validation, model, tokenizer, train.names, report))
    return Examples(*train.split(recipe.held_out))


def read_examples(
    paths: Sequence[str], model: Graph, tokenizer: Tokenizer | None, names: tuple[str, ...], report: Report
) -> Labelled:
    """The examples in files, for a model that has a score for each label. Raises as `examples`."""
    read = labelled(paths, task_of(model), tokenizer, names, feature_width(model), report)
    if len(read.names) != (width := scores_of(model)):
        shown = ", ".join(read.names[:10]) + (", .." if len(read.names) > 10 else "")
        raise SettingError(
            f"the model scores {width} labels, the data have {len(read.names)}: {shown}",
            where=f"@{model.name}",
            hint=f"make the model with labels={len(read.names)}; or name every label in `labels` of a recipe",
        )
    return read


def labelled_batches(data: Labelled, model: Graph, rows: int, seq_len: int, seed: int = 0) -> LabelledBatches:
    """Batches of `rows` rows of `seq_len` tokens for a model. Raises InputError if the examples do not fit it."""
    return LabelledBatches(data, task_of(model), rows, seq_len, seed, **mask_inputs(model))
