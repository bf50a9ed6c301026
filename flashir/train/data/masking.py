"""Masking: what a masked language model is asked for, as BERT has it (Devlin et al. 2019, §3.1)."""

from __future__ import annotations

import numpy as np

from flashir.backends.protocols import NO_LABEL
from flashir.train.data.corpus import Places
from flashir.train.data.tokenizer import Tokenizer

CHOSEN = 0.15  # of the tokens of a row
MASKED = 0.8  # of these, hidden by the mask
REPLACED = 0.1  # of these, replaced by any other token; the rest are kept


def mask(ids: Places, tokenizer: Tokenizer, draw: np.random.Generator) -> tuple[Places, Places]:
    """The tokens of one row [t] as a model sees them, and the labels [t]: the chosen tokens, NO_LABEL elsewhere.

    The number of chosen tokens is not left to chance: 15 % of the row, at least one. A replacement may be any id but
    the mask, also the token itself.
    """
    count = max(round(CHOSEN * len(ids)), 1) if len(ids) else 0
    chosen = draw.permutation(len(ids))[:count]
    fate = draw.random(count)
    other = draw.integers(tokenizer.vocab - 1, size=count)
    other += other >= tokenizer.mask
    seen, labels = ids.copy(), np.full_like(ids, NO_LABEL)
    labels[chosen] = ids[chosen]
    seen[chosen] = np.select([fate < MASKED, fate < MASKED + REPLACED], [np.int64(tokenizer.mask), other], ids[chosen])
    return seen, labels
