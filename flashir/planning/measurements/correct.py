"""Combine measurements with predictions.

Measured and predicted times are not comparable: if the cost model is 30% too fast, every unmeasured candidate would
win. So the prediction of an unmeasured candidate is multiplied by the ratio of measured to predicted time of the
others, corrected per strategy, chunk and tile, and by a safety factor.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from statistics import median

from flashir.cost.target import Target
from flashir.errors import ArtefactError, TargetError
from flashir.ir import Graph
from flashir.ir.graph import Attr
from flashir.planning.candidates import Candidate
from flashir.planning.measurements.key import store_path, where
from flashir.planning.measurements.statistics import Timing
from flashir.planning.measurements.trial import Trial
from flashir.planning.workload import Workload
from flashir.transforms.settle_choices import settle

ALIKE = 2.0
"""Two measurements whose standard errors differ by less than this factor count as equally certain."""
DOUBT = 1.15
"""The safety factor on the predictions of unmeasured candidates."""


def with_measurements(
    candidates: Sequence[Candidate], graph: Graph, record: Target, workload: Workload, *, cautious: bool = True
) -> tuple[Candidate, ...]:
    """Add the measurements in the store to the candidates.

    A candidate that was measured at exactly this length gets `measured_ms`. The others get a `correction` of their
    prediction, from their own measurement at another length of the same bucket, or from the other candidates. Of
    several measurements of one candidate the most certain counts. A store that cannot be used gives a warning and no
    measurements.

    Args:
        candidates: the predicted candidates.
        graph: the model with its choices open.
        record: the target record.
        workload: the workload.
        cautious: as for `corrected`.
    """
    if not os.path.exists(store_path()):  # avoids loading SQLite
        return tuple(candidates)
    from flashir.planning.measurements.store import Store, digest

    try:
        place = where(record)
    except TargetError:
        return tuple(candidates)
    models = [digest(settle(graph, candidate.settings)) for candidate in candidates]
    try:
        with Store() as store:
            trials = store.find(
                models, place, training=workload.training, batch=workload.batch, seq_len=workload.seq_len
            )
    except ArtefactError as error:
        warnings.warn(f"measurements are left out: {error}", stacklevel=3)
        return tuple(candidates)
    ratios: dict[int, float] = {}
    updated = list(candidates)
    for index, (candidate, model) in enumerate(zip(candidates, models, strict=True)):
        own = [trial for trial in trials if trial.model == model]
        if not own:
            continue
        trial = _most_certain(own, workload.seq_len)
        if trial.seq_len == workload.seq_len:
            updated[index] = replace(
                candidate, measured_ms=trial.measured_ms, spread_ms=trial.spread_ms, runs=trial.runs
            )
            ratios[index] = trial.measured_ms / candidate.predicted_ms
        else:
            ratios[index] = trial.measured_ms / trial.predicted_ms
            updated[index] = replace(candidate, correction=ratios[index], near=trial.seq_len)
    return corrected(updated, ratios, cautious=cautious)


def _most_certain(trials: Sequence[Trial], seq_len: int) -> Trial:
    """The latest of the trials at the nearest length whose certainty is close to that of the best.

    So a measurement on a busy machine does not replace one on a quiet machine, but a new one on a quiet machine does.
    """
    nearest = min(abs(trial.seq_len - seq_len) for trial in trials)
    errors = {
        trial: Timing(trial.measured_ms, trial.spread_ms, trial.runs).error_ms
        for trial in trials
        if abs(trial.seq_len - seq_len) == nearest
    }
    least = min(errors.values())
    return max((trial for trial, error in errors.items() if error <= ALIKE * least), key=lambda trial: trial.date)


def corrected(
    candidates: Sequence[Candidate], ratios: Mapping[int, float], *, cautious: bool = True
) -> tuple[Candidate, ...]:
    """Correct the predictions of the candidates without a ratio by the ratios of the others.

    Args:
        candidates: the candidates, some of them measured.
        ratios: measured over predicted time, by the position of the candidate.
        cautious: be pessimistic about unmeasured candidates: a strategy, chunk or tile that beat its predictions does
            not lower those of others, and the safety factor `DOUBT` applies. Otherwise use the most likely time.
    """
    if not ratios:
        return tuple(candidates)
    level = median(ratios.values())

    def share(name: str, value: Attr) -> float:
        """The ratio of the candidates with this value, relative to the ratio of all."""
        own = [ratio for index, ratio in ratios.items() if candidates[index].settings.get(name) == value]
        relative = median(own) / level if own else 1.0
        return max(relative, 1.0) if cautious else relative

    def correction(candidate: Candidate) -> float:
        shares = prod(share(name, value) for name, value in candidate.settings.items())
        return candidate.correction * level * shares * (DOUBT if cautious else 1.0)

    return tuple(
        candidate if index in ratios else replace(candidate, correction=correction(candidate))
        for index, candidate in enumerate(candidates)
    )
