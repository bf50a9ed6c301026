"""flashir doctor: check that everything flashir needs is installed and works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.results.machine import PartState
    from flashir.errors import TargetError

LIBRARIES = (
    *("numpy", "networkx", "lark", "onnx", "onnxruntime", "safetensors", "msgspec", "typer", "rich", "platformdirs"),
)
EXTRAS = {"optax": "jax", "tokenizers": "train", "tensorboard": "train", "matplotlib": "train"}
"""Optional libraries, and the extra that installs each."""


class State(StrEnum):
    """The state of a part: working, missing but optional, or broken."""

    OK = "ok"
    ABSENT = "absent"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """The state of one part of the installation."""

    part: str
    state: State
    detail: str
    hint: str = ""

    def as_json(self) -> PartState:
        """The JSON fields. The hint is called `mend` there, and the part `what`."""
        return {"what": self.part, "state": self.state, "detail": self.detail, "mend": self.hint}


def doctor(as_json: options.Json = False) -> None:
    """Check this installation and machine, and try a small export; exit 1 if something is broken.

    Examples:
        flashir doctor
        flashir doctor --json
    """
    with console.err().status("checking the installation"):
        findings = list(examine())
    broken = [finding for finding in findings if finding.state is State.BROKEN]
    if as_json:
        console.emit({"ok": not broken, "findings": [finding.as_json() for finding in findings]})
    else:
        _show(findings)
    if broken:
        console.note(f"broken: {', '.join(finding.part for finding in broken)}", "bold red")
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """Yield the findings in order."""
    for part, check in (("python", _python), ("machine", _machine)):
        yield _tried(part, check)
    yield from _libraries()
    yield from _backends()
    yield from examine_plugins()
    for part, check in (("cache", _cache), ("tuning store", _store), ("self test", _self_test)):
        yield _tried(part, check)


def _tried(part: str, check: Callable[[], str]) -> Finding:
    """Run a check. An error becomes a finding."""
    from flashir.errors import FlashirError

    try:
        return Finding(part, State.OK, check())
    except FlashirError as error:
        return Finding(part, State.BROKEN, "; ".join(error.problems), error.hint)
    except Exception as error:
        return Finding(part, State.BROKEN, f"{type(error).__name__}: {error}")


def _python() -> str:
    import platform

    from flashir.version import __version__

    return f"{platform.python_version()} on {platform.platform()}, flashir {__version__}"


def _machine() -> str:
    import os

    from flashir.machine.hardware import device_identity
    from flashir.machine.memory import total_memory

    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    limits = "".join(f", {name}={value}" for name, value in threads.items())
    return f"{device_identity()} cores, {console.size(total_memory())} of memory{limits}"


def _libraries() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    for name in LIBRARIES:
        try:
            yield Finding(name, State.OK, version(name))
        except PackageNotFoundError:
            yield Finding(name, State.BROKEN, "not installed", "pip install flashir")
    for name, extra in EXTRAS.items():
        try:
            yield Finding(name, State.OK, version(name))
        except PackageNotFoundError:
            yield Finding(name, State.ABSENT, "not installed", f"pip install 'flashir[{extra}]'")


def _backends() -> Iterator[Finding]:
    from flashir.backends.registry import backend_names
    from flashir.cli.machine import Presence

    for name in backend_names():
        presence = Presence.of(name)
        part = f"backend {name}"
        if presence.installed:
            versions = ", ".join(f"{library} {number}" for library, number in presence.versions)
            lack = f"; its kernels are not used: {presence.lack}" if presence.lack else ""
            yield Finding(part, State.OK, f"{versions}; at hand: {', '.join(presence.devices) or 'no device'}{lack}")
        else:
            yield Finding(part, State.ABSENT if presence.is_optional else State.BROKEN, presence.problem, presence.hint)


def examine_plugins() -> Iterator[Finding]:
    """Yield the findings on plug-ins with ops, models, importers or target records."""
    from flashir.backends.registry import broken_frontends, frontends
    from flashir.importing.importer import broken_importers, file_importers, importers
    from flashir.ir.op import EXTENSIONS
    from flashir.machine.targets import read_record, records_of
    from flashir.plugins import MEND, TARGETS, working

    EXTENSIONS.load()
    for name, ops in EXTENSIONS.added.items():
        if ops:
            yield Finding(f"ops of {name}", State.OK, ", ".join(ops))
    for fault in EXTENSIONS.faults:
        yield Finding(f"ops of {fault.plugin}", State.BROKEN, str(fault), MEND)
    for name, frontend in frontends().items():
        yield Finding(f"models of {name}", State.OK, ", ".join(frontend.models()))
    yield from _broken("models", broken_frontends())
    yield Finding("importers", State.OK, ", ".join(sorted({*importers(), *file_importers()})))
    yield from _broken("importer", broken_importers())

    def records(plugin: str) -> list[str]:
        return [read_record(path).name for path in sorted(records_of(plugin).glob("*.toml"))]

    names, errors = working(TARGETS, records)
    for name, targets in names.items():
        yield Finding(f"targets of {name}", State.OK, ", ".join(targets))
    yield from _broken("targets", errors)


def _broken(what: str, errors: Mapping[str, TargetError]) -> Iterator[Finding]:
    for name, error in errors.items():
        place = f"{error.where}: " if error.where else ""
        yield Finding(f"{what} of {name}", State.BROKEN, place + "; ".join(error.problems), error.hint)


def _cache() -> str:
    from flashir.files.atomic import check_room
    from flashir.machine.profile import cache_folder, in_cache

    folder = cache_folder()
    with in_cache():
        check_room(folder)
    profiles = sorted(path.stem for path in (folder / "profiles").glob("*.json"))
    return f"{folder} is writable; calibrated: {', '.join(profiles) or 'nothing yet'}"


def _store() -> str:
    from flashir.planning.measurements.key import store_path
    from flashir.planning.measurements.store import Store

    if not store_path().exists():
        return "no measurements yet; `flashir tune` makes some"
    with Store() as store:
        return f"{len(store.all())} measurements in {store_path()}"


def _self_test() -> str:
    """Export a tiny model to a temporary folder, and compare it with the interpreter."""
    from tempfile import TemporaryDirectory

    from flashir.exporting.export import export
    from flashir.models.load import model

    with TemporaryDirectory(prefix="flashir-") as folder:
        exported = export(model("flash", size="tiny"), folder, batch=1, seq_len=128)
    return f"a tiny model exported for onnx:cpu; {exported.checks[-1]}"


def _show(findings: list[Finding]) -> None:
    styles = {State.OK: "green", State.ABSENT: "dim", State.BROKEN: "bold red"}
    table = console.table("", "", "")
    table.show_header = False
    for finding in findings:
        detail = f"{finding.detail}; {finding.hint}" if finding.hint else finding.detail
        table.add_row(finding.state.value, finding.part, detail, style=styles[finding.state])
    console.show(table)
