"""Text as the data of a run: a corpus to learn from, and a held-out one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flashir.errors import InputError, SettingError, option
from flashir.ir import Graph
from flashir.reference.cross_entropy import is_causal
from flashir.reference.inputs import MASK, SEGMENT_IDS, masking_inputs, vocabulary
from flashir.train.data import Batches, Corpus, Tokenizer, documents, tokenised
from flashir.train.distributed import Report
from flashir.train.recipe import Recipe

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

    def feeds(self, model: Graph, recipe: Recipe) -> tuple[Batches, Batches]:
        """The parts of batches for a model, in order. Raises InputError if there is too little text."""
        return _batches(self.train, model, recipe), _batches(self.held_out, model, recipe)

    def log_frequencies(self, vocab: int) -> npt.NDArray[np.float32]:
        """The log of the share of each token of the training text; every token counts once more than it occurs."""
        counts = np.ones(vocab, np.int64)
        for start in range(0, len(self.train), AT_ONCE):
            counts += np.bincount(self.train.read(start, start + AT_ONCE), minlength=vocab)
        shares: npt.NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
        return shares


def corpora(recipe: Recipe, tokenizer: Tokenizer, report: Report) -> Corpora:
    """The texts of a recipe as tokens. Raises InputError with all problems of the files."""
    if not recipe.data:
        raise SettingError("there is no training text", where="data", hint=option("data", "FILE or FOLDER"))
    corpus = tokenised(documents(recipe.data, report), tokenizer, progress=report)
    if recipe.validation:
        return Corpora(corpus, tokenised(documents(recipe.validation, report), tokenizer, progress=report))
    return Corpora(*corpus.split(recipe.held_out))


def _batches(corpus: Corpus, model: Graph, recipe: Recipe) -> Batches:
    rows = recipe.rows or recipe.batch
    return Batches(
        corpus, task_of(model), rows, recipe.seq_len, recipe.seed, vocab=vocabulary_of(model), **mask_inputs(model)
    )


def mask_inputs(model: Graph) -> dict[str, bool]:
    """Whether a model takes segment ids and a padding mask besides its tokens: `segments` and `mask` of `Batches`.

    Raises:
        InputError: the model takes other inputs, or in another order.
    """
    present = masking_inputs(model)
    if tuple(present.values()) != model.inputs[1:] or list(present) == [MASK, SEGMENT_IDS]:
        inputs = ", ".join(f"{value.name}: {value.type}" for value in model.inputs)
        raise InputError(
            f"the model takes ({inputs}); wanted tokens, then optional segment ids, then an optional mask",
            where=f"@{model.name}",
        )
    return {"segments": SEGMENT_IDS in present, "mask": MASK in present}


def task_of(model: Graph) -> str:
    """`lm` for a causal model, `mlm` for a bidirectional one."""
    return "lm" if is_causal(model) else "mlm"


def vocabulary_of(model: Graph) -> int:
    """The vocabulary size of a model. Raises InputError if its first input is not tokens."""
    rows = vocabulary(model, model.inputs[0]) if model.inputs else None
    if rows is None:
        raise InputError(
            "the first input of the model must be tokens",
            where=f"@{model.name}",
            hint="give a model that embeds its first input, as every built-in model does",
        )
    return rows
