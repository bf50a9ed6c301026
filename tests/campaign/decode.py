"""Decoders of random causal models: prompts of several lengths and steps give the logits of the whole text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flashir import decoder
from flashir.errors import FlashirError
from tests.campaign.agreement import LEAST, Reference
from tests.campaign.case import Case
from tests.campaign.compose import drawn
from tests.campaign.values import note, settled
from tests.campaign.verdict import WrongError

TARGETS = ("onnx:cpu", "onnx:cpu", "onnx:cpu", "torch:cpu", "torch:cpu", "torch:cpu", "jax:cpu")


def case(case: Case) -> str:
    """Prompts, then steps to the end, of one model on one target."""
    random, target = case.random, case.random.choice(TARGETS)
    model = settled(drawn(random, causal=True), target)
    model = replace(model, batch=max(1, model.batch), length=max(2, model.length))
    note(case, model, target)
    reference = Reference(model)
    ids, logits = reference.arrays[0], reference.wanted[0]
    if len(reference.arrays) != 1 or ids.dtype.kind == "f" or not reference.usable:
        return "no tokens"
    made = decoder(model.graph, target, reference.params, max_len=model.length, length=model.length)
    starts = [random.randint(1, model.length) for _ in range(len(ids))]
    case.note("prompts", starts)
    position = np.array(starts)
    try:
        found, state = made.prefill([row[:n] for row, n in zip(ids, starts, strict=True)])
        got, wanted = [found], [logits[np.arange(len(ids)), position - 1]]
        while position.max() < model.length:
            found, state = made.step(ids[np.arange(len(ids)), position], state)
            got.append(found)
            wanted.append(logits[np.arange(len(ids)), position])
            position = position + 1
    except FlashirError as error:
        raise WrongError(f"{target}: a decoder refuses what it was made for", error.message) from error
    scale = max(float(np.abs(logits).max()), 1.0)
    off = float(np.abs(np.stack(got) - np.stack(wanted)).max()) / scale
    if not off <= LEAST[model.dtype] and not off <= (allowed := reference.allowed(0)):
        raise WrongError(f"{target}: steps differ from the whole", f"{off:.1e} off, {allowed:.1e} allowed")
    return target
