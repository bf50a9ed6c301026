"""The stages `step`, which times training steps of whole models in turn, and `profile`, which looks into one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

import flashir
from flashir.bench.record import Record, Row, new_record
from flashir.ir import Graph
from flashir_torch.experiments.card.setting import Setting
from flashir_torch.experiments.card.stage import Document
from flashir_torch.experiments.step import OURS, RIVAL, RIVAL_COMPILED, Bench, can_compare, first_steps, profiled

KERNELS = 60
"""The most kernels of a profile."""


def measure(setting: Setting, known: Document) -> Iterator[Document]:
    """A record of `flashir bench`, which grows by a length at a time."""
    settings = {"tokens": setting.tokens, "rounds": setting.rounds}
    record = msgspec.convert(known, Record) if known else new_record(settings, (setting.target,))
    record = replace(record, complete=False)
    bench = None
    for length in setting.lengths:
        if any(row.seq_len == length for row in record.rows):
            continue
        bench = bench or _bench(setting)
        rows = (*bench.measure(length, setting.rounds), *_absent(setting, length))
        record = replace(record, rows=(*record.rows, *rows))
        yield record.as_dict()
    if bench is None:
        yield record.as_dict()


def _bench(setting: Setting) -> Bench:
    return Bench(setting.target, setting.tokens, models=_models(setting), device=setting.device)


def _models(setting: Setting) -> dict[str, Graph]:
    return {name: flashir.model(name, **settings) for name, settings in setting.systems.items()}


def _absent(setting: Setting, length: int) -> Iterator[Row]:
    """Rows of FLASH-pytorch that say why it was not measured."""
    if can_compare() and not setting.is_rehearsal:
        return
    row = Row(RIVAL, setting.target, max(1, setting.tokens // length), length, True)
    why = "a rehearsal has no GPU for it" if setting.is_rehearsal else "FLASH-pytorch is not installed"
    yield from (replace(row, system=name, left_out=why) for name in (RIVAL, RIVAL_COMPILED))


def summary(document: Document) -> Iterator[str]:
    """The time of each step, and how it compares with that of flash."""
    rows = msgspec.convert(document, Record).rows
    for row in rows:
        line = f"{row.batch:3} x {row.seq_len:5}  {row.system:22} {row.choice:12}"
        if row.times is None:
            yield f"{line} {row.problem}"
            continue
        first = next((other.times for other in rows if other.seq_len == row.seq_len and other.times), row.times)
        memory = "" if row.memory is None else f"   {row.memory / 2**30:5.1f} GiB"
        yield f"{line} {row.times.median:8.1f} ms   {row.times.ratio(first):.2f} times flash{memory}"


def profile(setting: Setting, known: Document) -> Iterator[Document]:
    """Each kernel of a step at the first length: how often it runs, and for how long altogether."""
    document: Document = {"length": setting.lengths[0], "systems": dict(known.get("systems", {}))}
    bench = Bench(setting.target, setting.tokens, OURS, _models(setting), setting.device)
    contestants, data = bench.contestants(setting.lengths[0])
    for contestant in contestants:
        system = contestant.row.system
        if system not in document["systems"]:
            first_steps(contestant, data)
            document["systems"][system] = _kernels(profiled(contestant, data), on_card=not setting.is_rehearsal)
            yield document


def _kernels(events: Any, *, on_card: bool) -> list[dict[str, Any]]:
    time = "self_device_time_total" if on_card else "self_cpu_time_total"
    rows = [{"kernel": event.key, "count": event.count, "us": float(getattr(event, time))} for event in events]
    return sorted((row for row in rows if row["us"]), key=lambda row: -row["us"])[:KERNELS]


def summary_of_profile(document: Document) -> Iterator[str]:
    """The kernels that take longest."""
    for system, rows in document["systems"].items():
        yield f"{system}: {sum(row['us'] for row in rows) / 1e3:.1f} ms in kernels at T {document['length']}"
        for row in rows[:10]:
            yield f"  {row['us'] / 1e3:8.2f} ms  {row['count']:5} x {row['kernel'][:80]}"
