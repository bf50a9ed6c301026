"""Causal models: a changed token must not change any bit of earlier results."""

from __future__ import annotations

import numpy as np

from flashir import compile
from tests.campaign.agreement import Reference
from tests.campaign.case import Case
from tests.campaign.compose import VOCAB, drawn
from tests.campaign.values import TARGETS, note, results_of, settled, workload
from tests.campaign.verdict import WrongError


def case(case: Case) -> str:
    """Change the tokens after a position, in a causal model on a target."""
    random, target = case.random, case.random.choice(TARGETS)
    model = settled(drawn(random, causal=True), target)
    note(case, model, target)
    reference = Reference(model)
    axes = {array.shape[1] for array in (*reference.arrays, *reference.wanted) if array.ndim > 1}
    ids = reference.arrays[0]
    if len(axes) != 1 or ids.dtype.kind == "f" or ids.size == 0 or not reference.usable:
        return "no tokens"
    run = compile(model.graph, target, reference.params, **workload(model))
    before = results_of(run, reference.arrays, target)
    for place in {0, ids.shape[1] - 1, random.randrange(ids.shape[1])}:
        changed = ids.copy()
        changed[:, place:] = np.random.default_rng(model.seed).integers(0, min(5, VOCAB), changed[:, place:].shape)
        after = results_of(run, [changed, *reference.arrays[1:]], target)
        for one, other in zip(before, after, strict=True):
            if not np.array_equal(one[:, :place], other[:, :place], equal_nan=True):
                first = np.argwhere(one[:, :place] != other[:, :place])[0]
                raise WrongError(f"{target}: the future is seen", f"tokens from {place} on change {first}")
    return target
