"""What measurements say of candidates: of those that were measured, and of those that were not.

Measured and predicted times do not compare: where the model is 30% too fast throughout, whatever was not measured
would win. So a candidate that was not measured competes with its prediction times what the others were found to
take over theirs, by its strategy, its chunk and its tile, and with some doubt on top.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from statistics import median
from typing import TYPE_CHECKING

from flashir.cost.target import Target
from flashir.errors import ArtefactError, TargetError
from flashir.ir import Graph
from flashir.ir.graph import Attr
from flashir.planning.candidates import Candidate
from flashir.planning.measurements.key import store_path, where
from flashir.planning.measurements.statistics import Timing
from flashir.transforms.settle_choices import settle

if TYPE_CHECKING:
    from flashir.planning.measurements.store import Trial
    from flashir.planning.workload import Workload

ALIKE = 2.0
"""Two measurements whose standard errors differ by less than this are about as certain."""
DOUBT = 1.15
"""How much slower than expected a candidate that was not measured may be: it wins only where it is better even so."""


def with_measurements(
    candidates: Sequence[Candidate], graph: Graph, record: Target, workload: Workload, *, cautious: bool = True
) -> tuple[Candidate, ...]:
    """The candidates with what the store knows of them.

    One that was measured at this very length gets `measured_ms`. One that was measured at another length of the same
    bucket, and one that was not measured at all, gets a `correction` of its prediction. Of several measurements of one
    candidate the most certain counts. A store that cannot be used
    is a miss, with one warning.

    Args:
        candidates: predicted.
        graph: the model with its choices open.
        record: the target.
        workload: what is planned for.
        cautious: as for `corrected`.
    """
    if not os.path.exists(store_path()):  # before SQLite is even loaded
        return tuple(candidates)
    from flashir.planning.measurements.store import Store, digest

    try:
        place = where(record)
    except TargetError:
        return tuple(candidates)
    models = [digest(settle(graph, each.settings)) for each in candidates]
    try:
        with Store() as store:
            trials = store.find(
                models, place, training=workload.training, batch=workload.batch, seq_len=workload.seq_len
            )
    except ArtefactError as error:
        warnings.warn(f"measurements are left out: {error}", stacklevel=3)
        return tuple(candidates)
    ratios: dict[int, float] = {}
    made = list(candidates)
    for index, (candidate, model) in enumerate(zip(candidates, models, strict=True)):
        own = [each for each in trials if each.model == model]
        if not own:
            continue
        found = _most_certain(own, workload.seq_len)
        if found.seq_len == workload.seq_len:
            made[index] = replace(candidate, measured_ms=found.measured_ms, spread_ms=found.spread_ms, runs=found.runs)
            ratios[index] = found.measured_ms / candidate.predicted_ms
        else:
            ratios[index] = found.measured_ms / found.predicted_ms
            made[index] = replace(candidate, correction=ratios[index], near=found.seq_len)
    return corrected(made, ratios, cautious=cautious)


def _most_certain(trials: Sequence[Trial], seq_len: int) -> Trial:
    """Of those at the nearest length the latest that is about as certain as the most certain.

    What a busy machine took does not replace what a quiet one did, and what a quiet one takes now replaces what it did.
    """
    nearest = min(abs(each.seq_len - seq_len) for each in trials)
    errors = {
        each: Timing(each.measured_ms, each.spread_ms, each.runs).error_ms
        for each in trials
        if abs(each.seq_len - seq_len) == nearest
    }
    least = min(errors.values())
    return max((each for each, error in errors.items() if error <= ALIKE * least), key=lambda each: each.date)


def corrected(
    candidates: Sequence[Candidate], ratios: Mapping[int, float], *, cautious: bool = True
) -> tuple[Candidate, ...]:
    """The candidates, those without a ratio corrected by the ratios of the others.

    Args:
        candidates: some measured.
        ratios: measured over predicted, by the position of the candidate.
        cautious: of the others expect rather too little: that one strategy, chunk or tile beat its predictions says
            nothing for what was not measured, and some doubt comes on top. Otherwise, what is most likely.
    """
    if not ratios:
        return tuple(candidates)
    level = median(ratios.values())

    def share(name: str, value: Attr) -> float:
        """By how much those with this value of a choice are off beyond what all are."""
        own = [ratio for index, ratio in ratios.items() if candidates[index].settings.get(name) == value]
        found = median(own) / level if own else 1.0
        return max(found, 1.0) if cautious else found

    def correction(candidate: Candidate) -> float:
        shares = prod(share(name, value) for name, value in candidate.settings.items())
        return candidate.correction * level * shares * (DOUBT if cautious else 1.0)

    return tuple(
        each if index in ratios else replace(each, correction=correction(each)) for index, each in enumerate(candidates)
    )
