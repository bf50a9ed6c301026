"""Text as the data of a run: a corpus to learn from, and a held-out one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flashir.ir import Graph
from flashir.train.data import Corpus, TextBatches, Tokenizer, documents, tokenised
from flashir.train.distributed import Report
from flashir.train.feed import log_shares
from flashir.train.recipe import Recipe
from flashir.train.task import mask_inputs, task_of, vocabulary_of

AT_ONCE = 2**22  # tokens that are counted at once


@dataclass(frozen=True)
class Corpora:
    """The training text and the held-out text."""

    train: Corpus
    held_out: Corpus

    @property
    def digests(self) -> Mapping[str, str]:
        """The digests of the two texts."""
        return {"data": self.train.digest, "held_out": self.held_out.digest}

    def feeds(self, model: Graph, recipe: Recipe) -> tuple[TextBatches, TextBatches]:
        """The parts of batches for a model, in order. Raises InputError if there is too little text."""
        shape = recipe.rows or recipe.batch, recipe.seq_len, recipe.seed
        return text_batches(self.train, model, *shape), text_batches(self.held_out, model, *shape)

    def log_frequencies(self, size: int) -> npt.NDArray[np.float32]:
        """Of each token of the training text; see `log_shares`."""
        counts = np.zeros(size, np.int64)
        for start in range(0, len(self.train), AT_ONCE):
            counts += np.bincount(self.train.read(start, start + AT_ONCE), minlength=size)
        return log_shares(counts)


def corpora(recipe: Recipe, tokenizer: Tokenizer, report: Report) -> Corpora:
    """The texts of a recipe as tokens. Raises InputError with all problems of the files."""
    corpus = tokenised(documents(recipe.data, report), tokenizer, progress=report)
    if recipe.validation:
        return Corpora(corpus, tokenised(documents(recipe.validation, report), tokenizer, progress=report))
    return Corpora(*corpus.split(recipe.held_out))


def text_batches(corpus: Corpus, model: Graph, rows: int, seq_len: int, seed: int = 0) -> TextBatches:
    """Batches of `rows` rows of `seq_len` tokens for a model. Raises InputError if the text does not fit it."""
    inputs = mask_inputs(model)
    return TextBatches(corpus, task_of(model), rows, seq_len, seed, vocab=vocabulary_of(model), **inputs)
