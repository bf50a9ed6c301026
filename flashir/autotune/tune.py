"""tune: measure what a model leaves open, on the device at hand, and keep what was found."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flashir.arguments import typed
from flashir.autotune.contest import Contest
from flashir.autotune.measure import DeviceMeasurer
from flashir.autotune.progress import Progress, Silent, candidate_name
from flashir.backends.registry import backend
from flashir.cost import Target
from flashir.errors import ArtefactError, SettingError, TargetError, counted
from flashir.execution.timed_step import trainable
from flashir.interrupts import kept
from flashir.ir import Graph
from flashir.ir.graph import Attr
from flashir.machine.peak_memory import free_memory
from flashir.machine.targets import target as find_target
from flashir.planning.candidates import Candidate, check_policy
from flashir.planning.extent import Extent
from flashir.planning.measurements.correct import with_measurements
from flashir.planning.measurements.key import where
from flashir.planning.measurements.statistics import Timing
from flashir.planning.measurements.store import Store, Trial, choices_text, digest, new_tuning, now
from flashir.planning.plan import Plan, Ranking, by_hand, planned
from flashir.planning.workload import Workload
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
    """Choose what the model leaves open by measuring on the device at hand.

    A third of the candidates are measured, or three where there are fewer than nine, and one more where the choice
    would fall on it: those that the cost model finds the best, and those about which what was measured leaves doubt.
    Before it is timed, the first of each chunk is checked against the interpreter, and the others of the chunk against
    the first; so are the loss and the gradients of training steps. Results go to the store as they come, where `plan`
    finds them; Ctrl-C loses none. Where they are certain enough already, nothing is measured; of several measurements
    of one candidate the most certain counts, here and in `plan`.

    Args:
        model: any graph; what it has settled stays so.
        target: a backend that is installed, and a device at hand, such as `onnx:cpu`.
        batch: rows.
        seq_len: tokens a row.
        training: measure training steps instead of runs forward.
        policy: `quality`, the largest chunk whose time is within 5% of the fastest; or `fastest`.
        dtype: the compute type; without one, the model's own.
        budget_s: seconds after which nothing more is begun; without it, as long as it takes.
        again: measure whatever the store has.
        progress: is told what happens.
        choices: values set by hand, such as `chunk=256` or `cumsum="scan"`.

    Returns:
        The plan, chosen among what was measured; `measured_ms` is in every candidate that was.

    Raises:
        SettingError: a setting is out of range, or does not apply to this model.
        InputError: the model does not take rows so long.
        TargetError: the target is unknown or not at hand, the model does not fit its memory, or no candidate could be
            measured.
    """
    workload, record = Workload(batch, seq_len, training), find_target(target)
    check_policy(policy)
    if budget_s is not None and not budget_s > 0:
        raise SettingError(f"budget_s must be more than 0 seconds, got {budget_s!r}")
    _check_at_hand(record, training)
    graph = by_hand(model, choices, dtype, locked=False)
    extent = Extent.of(graph)
    if extent.length is not None or extent.batch is not None:
        workload = extent.fitted(workload)
    specialise(graph, workload.sizes(graph))
    predicted = Ranking(record, workload, policy=policy)(graph)
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
        with kept(keep.said):
            found = contest.run()
        if keep.store is not None:
            found = with_measurements(predicted, graph, record, workload)  # as `plan` will see them
    finally:
        if store is not None:
            store.close()
    measured = [each for i, each in enumerate(found) if each.measured_ms is not None and i not in contest.skipped]
    skipped = [f"{candidate_name(found[index])}: {reason}" for index, reason in contest.skipped.items()]
    if not measured:
        same = len(set(contest.skipped.values())) == 1
        reasons = list(contest.skipped.values())[:1] if same else skipped
        raise TargetError(reasons, where=f"no candidate could be measured on {target}")
    made = planned(model, graph, found, target, workload, policy, among=measured)
    return replace(made, why=" ".join([made.why, *_said(len(measured), len(found), contest.known), *_lines(skipped)]))


def _check_at_hand(record: Target, training: bool) -> None:
    """Raises TargetError where the target cannot be measured here."""
    found = backend(record.backend)
    found.versions()
    plan_instead = "`flashir plan` needs no device"
    if training:
        trainable(record.name)
    if record.devices > 1:
        raise TargetError(f"{record.name} cannot be measured: one device at a time is", hint=plan_instead)
    if record.device not in found.devices():
        at_hand = ", ".join(found.devices())
        raise TargetError(
            f"{record.name} cannot be measured here: the devices at hand for {found.name} are {at_hand}",
            hint=plan_instead,
        )


def _earlier(candidates: Sequence[Candidate]) -> dict[int, Timing]:
    """The timings that the store has."""
    return {
        index: Timing(each.measured_ms, each.spread_ms, each.runs)
        for index, each in enumerate(candidates)
        if each.measured_ms is not None and each.spread_ms is not None and each.runs is not None
    }


def _unmeasured(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """What earlier measurements say, as expectations: this contest measures anew."""
    return tuple(
        each
        if each.measured_ms is None
        else replace(each, measured_ms=None, spread_ms=None, runs=None, correction=each.ms / each.predicted_ms)
        for each in candidates
    )


def _opened() -> Store | None:
    """The store of this user; none, with a warning, where it cannot be used."""
    try:
        return Store(write=True)
    except ArtefactError as error:
        _warn(error)
        return None


@dataclass
class _Keeper:
    """Puts measurements into the store. Where that fails, one warning says so, and tuning goes on without."""

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

    def said(self) -> str:
        """What is kept, for who interrupts it."""
        kept = f"{counted(self.count, 'measurement')} {'is' if self.count == 1 else 'are'} kept in the store"
        return f"{kept}; run again to go on" if self.count else "nothing was measured yet"

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


def _said(measured: int, total: int, known: bool) -> list[str]:
    """How many were measured, and whether that was earlier."""
    count = "Measured" if total == 1 else f"{measured} of {total} candidates were measured"
    said = f"{count} on this machine."
    return [said, "All of it was earlier, and is certain enough; `again` measures anew."] if known else [said]


def _lines(skipped: Sequence[str]) -> list[str]:
    return [f"Left out: {'; '.join(skipped)}."] if skipped else []
