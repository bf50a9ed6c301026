"""Masking for masked language models, as in BERT (Devlin et al. 2019, §3.1)."""

from __future__ import annotations

import numpy as np

from flashir.backends.training import NO_LABEL
from flashir.train.data.corpus import Places
from flashir.train.data.tokenizer import Tokenizer

CHOSEN = 0.15  # share of the tokens of a row
MASKED = 0.8  # share of the chosen tokens that the mask replaces
REPLACED = 0.1  # share of the chosen tokens that a random token replaces; the rest stay


def mask(ids: Places, tokenizer: Tokenizer, draw: np.random.Generator) -> tuple[Places, Places]:
    """Mask one row [t]. Returns the input tokens [t] and the labels [t]: the chosen tokens, and NO_LABEL elsewhere.

    The number of chosen tokens is fixed: 15% of the row, and at least one. A random token may be any id but the mask,
    also the token itself.
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
