"""How a backend writes an artefact: a model, or a model and its decoder. `export` chooses one, `hub.py` has a third."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flashir.backends.decoding import Extending, decoding, extending
from flashir.backends.hosting import Hosting
from flashir.backends.protocols import Backend, DecoderExporter, Exporter, Written
from flashir.backends.registry import having
from flashir.errors import SettingError, TargetError, either
from flashir.execution.prepare import Prepared
from flashir.exporting.checks import Check, DecoderCheck
from flashir.generation.generate import longest, piece_of
from flashir.generation.host_interface import hosted
from flashir.ir import DType


@dataclass(frozen=True)
class Writer:
    """Writes an artefact.

    Args:
        write: (folder, metadata) -> the artefact, which is checked before it is committed.
        files: the further files of the artefact by name, which are committed with it.
    """

    write: Callable[[Path, Mapping[str, str]], Written]
    files: Mapping[str, bytes]


def model_writer(prepared: Prepared, check: Check, target: str) -> Writer:
    """Writes a model. Raises TargetError if the backend cannot export."""
    backend = prepared.backend
    if not isinstance(backend, Exporter):
        raise TargetError(f"the backend {backend.name!r} cannot export", where=target)

    def write(out: Path, metadata: Mapping[str, str]) -> Written:
        return backend.export(prepared.plan.graph, prepared.lowered, prepared.params, out, metadata, check)

    return Writer(write, {})


def decoder_writer(
    prepared: Prepared,
    check: Check,
    target: str,
    host: str | None,
    ends: tuple[int, ...],
    *,
    split: bool,
    max_len: int | None,
    length: int | None,
    states: str | None = None,
) -> Writer:
    """Writes a model and its decoder, and the files of the program that runs them.

    Raises TargetError, and the SettingError of `decoding`.
    """
    backend, model = prepared.backend, prepared.plan.graph
    if host is not None:
        backend = _for_host(host, backend, target)
    if not isinstance(backend, DecoderExporter):
        raise TargetError(
            f"the backend {backend.name!r} writes no decoder",
            where=target,
            hint=f"choose a target of {either(having(DecoderExporter))}; without an export, flashir.decoder continues "
            "a model on every backend",
        )
    hosting = backend if isinstance(backend, Hosting) else None
    kept = None if states is None else DType.named(states)
    how: dict[str, Any] = {"max_len": max_len, "length": length, "kept": kept}
    derived = (
        hosted(decoding(model, **how))
        if split
        else extending(model, **how, layout=None if hosting is None else hosting.layout)
    )
    graphs = replace(derived.lowered(prepared.lowering), max_len=longest(model, max_len))
    files = hosting.host_files(graphs, ends, piece_of(model)) if hosting and isinstance(graphs, Extending) else {}
    examine = DecoderCheck(check, graphs.max_len, length, piece_of(model), kept)

    def write(out: Path, metadata: Mapping[str, str]) -> Written:
        return backend.export_decoder(model, prepared.lowered, graphs, prepared.params, out, metadata, examine)

    return Writer(write, files)


def _for_host(host: str, backend: Backend, target: str) -> Hosting:
    """The backend that writes for a host. Raises SettingError, TargetError if there is none."""
    if not isinstance(backend, Hosting):
        raise TargetError(
            f"the backend {backend.name!r} writes for no host",
            where=target,
            hint=f"choose a target of {either(having(Hosting))}",
        )
    if host not in backend.hosts:
        raise SettingError(f"there is no host {host!r}, only {either(backend.hosts)}", where=target)
    return backend.for_host(host)
