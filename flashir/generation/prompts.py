"""Prompts: rows of token ids that a model is to continue, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.arguments import shown
from flashir.errors import InputError, counted
from flashir.ir import Graph
from flashir.reference import inputs

Array = npt.NDArray[Any]
Prompts = Sequence[Sequence[int]] | Array


def checked(model: Graph, prompts: Prompts, limit: int | None = None, rows: int | None = None) -> list[Array]:
    """Each prompt as an array [t] of whole numbers.

    Args:
        model: that is to read them.
        prompts: of any lengths.
        limit: how many tokens it can hold.
        rows: how many prompts.

    Raises:
        InputError: there is none, and all that is wrong with each: it is no row of token ids, is empty or too long, or
            has a token outside the vocabulary.
    """
    if isinstance(prompts, np.ndarray) and not prompts.ndim:
        raise InputError(f"prompts must be rows of tokens, got {shown(prompts)}")
    found: list[Array] = []
    problems: list[str] = [] if len(prompts) else ["there is no prompt"]
    if rows is not None and len(prompts) > rows:
        problems.append(f"there are {len(prompts)} prompts, and memory for what {rows} keep")
    vocab = inputs.vocabulary(model, model.inputs[0])
    hints: dict[str, None] = {}
    for number, given in enumerate(prompts):
        try:
            row = inputs.array("it", given)
        except InputError as error:
            problems += [f"prompt {number} must be a row of token ids: {problem}" for problem in error.problems]
            continue
        if limit is not None and row.ndim == 1 and len(row) > limit:
            problems.append(f"row {number} would have {counted(len(row), 'token')}, this decoder can hold {limit}")
            hints["make a decoder with a larger max_len, where the model allows it"] = None
        for problem, hint in _problems(row, given, vocab):
            problems.append(f"prompt {number} {problem}")
            hints[hint] = None
        found.append(row)
    if problems:
        raise InputError(problems, hint="\n".join(filter(None, hints)))
    return found


def _problems(row: Array, given: object, vocab: int | None) -> Iterator[tuple[str, str]]:
    """What is wrong with a prompt, and how to mend it."""
    if row.ndim != 1:
        told = shown(given) if row.ndim == 0 else f"shape {row.shape}"
        hint = "a tokenizer makes ids of a text" if isinstance(given, str | bytes) else ""
        yield f"must be a row of tokens, got {told}", hint
    elif not row.size:
        yield "is empty", "give each prompt one token at least"
    elif row.dtype.kind not in "iu":
        yield f"must hold whole numbers, got {row.dtype}", ""
    elif vocab is not None and (strange := np.flatnonzero((row < 0) | (row >= vocab))).size:
        ids, first = counted(strange.size, "token id"), strange[0]
        yield f"has {ids} outside 0 .. {vocab - 1}, the first at {first}: {row[first]}", ""
