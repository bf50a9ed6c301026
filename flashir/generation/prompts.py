"""Prompts: rows of token ids to continue, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from flashir.arguments import shown
from flashir.errors import InputError, counted
from flashir.ir import Graph
from flashir.reference import inputs
from flashir.reference.arrays import Array

Prompts = Sequence[Sequence[int]] | Array


def checked(
    model: Graph,
    prompts: Prompts,
    limit: int | None = None,
    rows: int | None = None,
    before: npt.NDArray[np.int64] | None = None,
) -> list[Array]:
    """Check prompts, and return each as an integer array [t].

    Args:
        model: the model that continues them.
        prompts: rows of tokens, of any lengths.
        limit: the most tokens of a sequence; None for no limit.
        rows: the most rows; None for no limit.
        before: int64 [b], how many tokens each sequence has already; None for none.

    Raises:
        InputError: there are no prompts; or lists every prompt that is not a row of token ids, is empty or too long, or
            has a token outside the vocabulary.
    """
    if isinstance(prompts, np.ndarray) and not prompts.ndim:
        raise InputError(f"prompts must be rows of tokens, got {shown(prompts)}")
    arrays: list[Array] = []
    problems: list[str] = [] if len(prompts) else ["there is no prompt"]
    if rows is not None and len(prompts) > rows:
        problems.append(f"there are {len(prompts)} prompts, and memory for the state of {rows}")
    vocab = inputs.vocabulary(model, model.inputs[0])
    hints: dict[str, None] = {}
    for number, prompt in enumerate(prompts):
        try:
            row = inputs.array("it", prompt)
        except InputError as error:
            problems += [f"prompt {number} must be a row of token ids: {problem}" for problem in error.problems]
            continue
        length = (0 if before is None else int(before[number])) + row.size
        if limit is not None and row.ndim == 1 and length > limit:
            problems.append(f"row {number} would have {counted(length, 'token')}, this decoder can hold {limit}")
            hints["make a decoder with a larger max_len, where the model allows it"] = None
        for problem, hint in _problems(row, prompt, vocab):
            problems.append(f"prompt {number} {problem}")
            hints[hint] = None
        arrays.append(row)
    if problems:
        raise InputError(problems, hint="\n".join(filter(None, hints)))
    return arrays


def _problems(row: Array, prompt: object, vocab: int | None) -> Iterator[tuple[str, str]]:
    """Yield the problems of a prompt, each with a hint."""
    if row.ndim != 1:
        got = shown(prompt) if row.ndim == 0 else f"shape {row.shape}"
        hint = "a tokenizer makes ids of a text" if isinstance(prompt, str | bytes) else ""
        yield f"must be a row of tokens, got {got}", hint
    elif not row.size:
        yield "is empty", "give each prompt at least one token"
    elif row.dtype.kind not in "iu":
        yield f"must hold whole numbers, got {row.dtype}", ""
    elif vocab is not None and (outside := np.flatnonzero((row < 0) | (row >= vocab))).size:
        ids, first = counted(outside.size, "token id"), outside[0]
        yield f"has {ids} outside 0 .. {vocab - 1}, the first at {first}: {row[first]}", ""
