"""tune: settle the open choices of a model by measurements on this machine, and store them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashir.arguments import typed
from flashir.autotune.contest import Contest
from flashir.autotune.measure import DeviceMeasurer
from flashir.autotune.progress import Progress, Silent, candidate_name
from flashir.backends.registry import backend
from flashir.cost import Target
from flashir.errors import ArtefactError, SettingError, TargetError, counted
from flashir.execution.trainer import trainable
from flashir.interrupts import on_interrupt
from flashir.ir import Graph
from flashir.ir.graph import Attr
from flashir.machine.peak_memory import free_memory
from flashir.machine.targets import target as find_target
from flashir.planning.candidates import Candidate, check_policy
from flashir.planning.compute_types import allowed
from flashir.planning.extent import Extent
from flashir.planning.measurements.correct import with_measurements
from flashir.planning.measurements.key import where
from flashir.planning.measurements.statistics import Timing
from flashir.planning.measurements.store import Store, choices_text, digest, new_tuning, now
from flashir.planning.measurements.trial import Trial
from flashir.planning.plan import Plan, by_hand, in_best_type, planned
from flashir.planning.predict import Predictor
from flashir.planning.workload import Workload
from flashir.reference.narrowing import GROWTH
from flashir.transforms import specialise
from flashir.transforms.settle_choices import settle


@typed
def tune(
    model: Graph,
    target: str = "onnx:cpu",
    batch: int = 1,
    seq_len: int = 4096,
    training: bool = False,
    policy: str = "quality",
    *,
    dtype: str | None = None,
    budget_s: float | None = None,
    again: bool = False,
    progress: Progress | None = None,
    **choices: Attr,
) -> Plan:
    """Settle the open choices of a model by measurements on this machine.

    A third of the candidates are measured, at least three, and the chosen one in any case: the best ones by the cost
    model, and those that could still win given the measurements. Before timing, the first candidate of each chunk is
    checked against the interpreter, and the others against the first, including the loss and gradients of training
    steps. Measurements are stored at once, so Ctrl-C loses none, and `plan` uses them. If the stored measurements are
    certain enough, nothing is measured. Of several measurements of one candidate the most certain counts.

    Args:
        model: any graph; settled choices stay as they are.
        target: an installed backend and an available device, such as `onnx:cpu`.
        batch: rows.
        seq_len: tokens per row.
        training: measure training steps instead of forward runs.
        policy: `quality`, the largest chunk whose time is within 5% of the fastest; or `fastest`.
        dtype: the compute dtype; None for the model's own. Several to choose from, as for `plan`, are measured one
            after the other, each within the budget.
        budget_s: seconds after which no measurement starts; None for no limit.
        again: measure candidates even if the store has them.
        progress: receives progress events.
        choices: values set by hand, such as `chunk=256` or `cumsum="scan"`.

    Returns:
        The plan, chosen among the measured candidates. These have `measured_ms`.

    Raises:
        SettingError: a setting is out of range, or does not apply to this model.
        InputError: the model does not support this length.
        TargetError: the target is unknown or not available, the model does not fit its memory, or no candidate could
            be measured.
    """
    if len(types := allowed(dtype)) > 1:
        unchanged: dict[str, Any] = {"budget_s": budget_s, "again": again, "progress": progress}

        def in_type(own: str | None) -> Plan:
            return tune(model, target, batch, seq_len, training, policy, dtype=own, **unchanged, **choices)  # type: ignore[arg-type]

        return in_best_type(model, target, types, in_type, None, policy, GROWTH)
    workload, record = Workload(batch, seq_len, training), find_target(target)
    check_policy(policy)
    if budget_s is not None and not budget_s > 0:
        raise SettingError(f"budget_s must be more than 0 seconds, got {budget_s!r}")
    _check_available(record, training)
    graph = by_hand(model, choices, dtype, locked=False)
    extent = Extent.of(graph)
    if extent.length is not None or extent.batch is not None:
        workload = extent.fitted(workload)
    specialise(graph, workload.sizes(graph))
    predicted = Predictor(record, workload, policy=policy)(graph)
    store = _opened()
    keep = _Keeper(graph, record, workload, store)
    try:
        expected = predicted
        if store is not None:
            expected = with_measurements(predicted, graph, record, workload, cautious=False)
        contest = Contest(
            _unmeasured(expected),
            DeviceMeasurer(graph, target, backend(record.backend), record.device, workload),
            policy,
            progress or Silent(),
            budget_s,
            keep,
            free_memory() if record.device == "cpu" else record.memory,
            {} if again else _earlier(expected),
        )
        with on_interrupt(keep.message):
            results = contest.run()
        if keep.store is not None:
            results = with_measurements(predicted, graph, record, workload)  # the same as in `plan`
    finally:
        if store is not None:
            store.close()
    measured = [
        candidate
        for index, candidate in enumerate(results)
        if candidate.measured_ms is not None and index not in contest.skipped
    ]
    skipped = [f"{candidate_name(results[index])}: {reason}" for index, reason in contest.skipped.items()]
    if not measured:
        same = len(set(contest.skipped.values())) == 1
        reasons = list(contest.skipped.values())[:1] if same else skipped
        raise TargetError(reasons, where=f"no candidate could be measured on {target}")
    plan = planned(model, graph, results, target, workload, policy, among=measured)
    summary = _summary(len(measured), len(results), contest.known)
    return replace(plan, why=" ".join([plan.why, *summary, *_lines(skipped)]))


def _check_available(record: Target, training: bool) -> None:
    """Raise TargetError if the target cannot be measured on this machine."""
    owner = backend(record.backend)
    owner.versions()
    plan_instead = "`flashir plan` needs no device"
    if training:
        trainable(record.name)
    if record.devices > 1:
        raise TargetError(f"{record.name} cannot be measured: only a single device can be", hint=plan_instead)
    if record.device not in owner.devices():
        available = ", ".join(owner.devices())
        raise TargetError(
            f"{record.name} cannot be measured here: the available devices for {owner.name} are {available}",
            hint=plan_instead,
        )


def _earlier(candidates: Sequence[Candidate]) -> dict[int, Timing]:
    """The timings of the store, by position of the candidate."""
    return {
        index: Timing(candidate.measured_ms, candidate.spread_ms, candidate.runs)
        for index, candidate in enumerate(candidates)
        if candidate.measured_ms is not None and candidate.spread_ms is not None and candidate.runs is not None
    }


def _unmeasured(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates with earlier measurements as corrections of their predictions, to be measured again."""
    return tuple(
        candidate
        if candidate.measured_ms is None
        else replace(
            candidate, measured_ms=None, spread_ms=None, runs=None, correction=candidate.ms / candidate.predicted_ms
        )
        for candidate in candidates
    )


def _opened() -> Store | None:
    """The store of this user; None with a warning if it cannot be used."""
    try:
        return Store(write=True)
    except ArtefactError as error:
        _warn(error)
        return None


@dataclass
class _Keeper:
    """Adds measurements to the store. If that fails, it warns once, and tuning continues without the store."""

    graph: Graph
    record: Target
    workload: Workload
    store: Store | None
    count: int = 0

    def __post_init__(self) -> None:
        self.tuning, self.place = new_tuning(), where(self.record)

    def __call__(self, measured: Sequence[tuple[Candidate, Timing]]) -> None:
        if self.store is None:
            return
        try:
            self.store.add(*(self._trial(candidate, timing) for candidate, timing in measured))
            self.count = len(measured)
        except ArtefactError as error:
            self.store.close()
            self.store = None
            _warn(error)

    def message(self) -> str:
        """The message after an interrupt."""
        stored = f"{counted(self.count, 'measurement')} {'is' if self.count == 1 else 'are'} kept in the store"
        return f"{stored}; run again to continue" if self.count else "nothing was measured yet"

    def _trial(self, candidate: Candidate, timing: Timing) -> Trial:
        return Trial(
            model=digest(settle(self.graph, candidate.settings)),
            **self.place,
            training=self.workload.training,
            batch=self.workload.batch,
            seq_len=self.workload.seq_len,
            tuning=self.tuning,
            choices=choices_text(candidate.settings),
            predicted_ms=candidate.predicted_ms,
            measured_ms=timing.ms,
            spread_ms=timing.spread_ms,
            runs=timing.runs,
            date=now(),
        )


def _warn(error: ArtefactError) -> None:
    warnings.warn(f"measurements are not kept: {error}", stacklevel=4)


def _summary(measured: int, total: int, known: bool) -> list[str]:
    """How many candidates were measured, and whether that was earlier."""
    count = "Measured" if total == 1 else f"{measured} of {total} candidates were measured"
    sentence = f"{count} on this machine."
    reused = "All measurements are from earlier, and certain enough; `again` repeats them."
    return [sentence, reused] if known else [sentence]


def _lines(skipped: Sequence[str]) -> list[str]:
    return [f"Left out: {'; '.join(skipped)}."] if skipped else []
