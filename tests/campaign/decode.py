"""Decoders of random causal models: prompts and steps must give the logits of the whole text."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from flashir import Decoder, decoder
from flashir.errors import FlashirError
from tests.campaign.agreement import LEAST, Reference
from tests.campaign.case import Case
from tests.campaign.compose import drawn
from tests.campaign.values import note, settled
from tests.campaign.verdict import WrongError

TARGETS = ("onnx:cpu", "onnx:cpu", "onnx:cpu", "torch:cpu", "torch:cpu", "torch:cpu", "jax:cpu")


def case(case: Case) -> str:
    """Prompts, then steps to the end, of a model on a target."""
    random, target = case.random, case.random.choice(TARGETS)
    model = settled(drawn(random, causal=True), target)
    model = replace(model, batch=max(1, model.batch), length=max(2, model.length))
    note(case, model, target)
    reference = Reference(model)
    ids = reference.arrays[0]
    if len(reference.arrays) != 1 or ids.dtype.kind == "f" or not reference.usable:
        return "no tokens"
    made = decoder(model.graph, target, reference.params, max_len=model.length, length=model.length)
    off = steps_of(made, reference, random)
    if not off <= LEAST[model.dtype] and not off <= (allowed := reference.allowed(0)):
        raise WrongError(f"{target}: steps differ from the whole", f"{off:.1e} off, {allowed:.1e} allowed")
    return target


def steps_of(made: Decoder, reference: Reference, random: random.Random) -> float:
    """The largest difference of prompts and steps from the whole text, relative to its largest logit.

    Raises WrongError if the decoder refuses valid tokens.
    """
    ids, logits = reference.arrays[0], reference.wanted[0]
    rows, length = np.arange(len(ids)), ids.shape[1]
    starts = [random.randint(1, length) for _ in rows]
    position = np.array(starts)
    try:
        state, found = made.start([row[:n] for row, n in zip(ids, starts, strict=True)])
        got, wanted = [found], [logits[rows, position - 1]]
        while position.max() < length:
            state, found = made.extend(state, ids[rows, position])
            got.append(found)
            wanted.append(logits[rows, position])
            position = position + 1
    except FlashirError as error:
        raise WrongError("a decoder refuses what it was made for", f"prompts {starts}: {error.message}") from error
    return float(np.abs(np.stack(got) - np.stack(wanted)).max()) / max(float(np.abs(logits).max()), 1.0)
