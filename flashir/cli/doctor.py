"""flashir doctor: whether everything that flashir needs is there and works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import typer

from flashir.cli import console, options

LIBRARIES = (
    *("numpy", "networkx", "lark", "onnx", "onnxruntime", "safetensors", "msgspec", "typer", "rich", "platformdirs"),
)
EXTRAS = {"optax": "jax", "tokenizers": "train", "tensorboard": "train", "matplotlib": "train"}
"""Libraries that only some verbs need, by the extra that brings them."""


class State(StrEnum):
    """How something is: fine, missing but not needed, or broken."""

    OK = "ok"
    ABSENT = "absent"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    detail: str
    hint: str = ""

    def as_json(self) -> dict[str, str]:
        """Its fields; the key of the hint is `mend`."""
        return {"what": self.what, "state": self.state, "detail": self.detail, "mend": self.hint}


def doctor(as_json: options.Json = False) -> None:
    """Look at this installation and machine, and try a small export; exit 1 where something is broken.

    Examples:
        flashir doctor
        flashir doctor --json
    """
    with console.err().status("looking around"):
        findings = list(examine())
    broken = [finding for finding in findings if finding.state is State.BROKEN]
    if as_json:
        console.emit({"ok": not broken, "findings": [finding.as_json() for finding in findings]})
    else:
        _show(findings)
    if broken:
        console.note(f"broken: {', '.join(finding.what for finding in broken)}", "bold red")
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """Everything that is looked at, in order."""
    for what, look in (("python", _python), ("machine", _machine)):
        yield _tried(what, look)
    yield from _libraries()
    yield from _backends()
    yield from examine_plugins()
    for what, look in (("cache", _cache), ("tuning store", _store), ("self test", _self_test)):
        yield _tried(what, look)


def _tried(what: str, look: Callable[[], str]) -> Finding:
    """What a look finds; whatever it raises is the finding."""
    from flashir.errors import FlashirError

    try:
        return Finding(what, State.OK, look())
    except FlashirError as error:
        return Finding(what, State.BROKEN, "; ".join(error.problems), error.hint)
    except Exception as error:
        return Finding(what, State.BROKEN, f"{type(error).__name__}: {error}")


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
        found = Presence.of(name)
        what = f"backend {name}"
        if found.installed:
            versions = ", ".join(f"{library} {number}" for library, number in found.versions)
            yield Finding(what, State.OK, f"{versions}; at hand: {', '.join(found.devices) or 'no device'}")
        else:
            yield Finding(what, State.ABSENT if found.is_optional else State.BROKEN, found.problem, found.hint)


def examine_plugins() -> Iterator[Finding]:
    """What brings ops and target records from elsewhere."""
    from flashir.errors import TargetError
    from flashir.ir.op import EXTENSIONS
    from flashir.machine.targets import records_of
    from flashir.plugins import TARGETS, plugins

    EXTENSIONS.load()
    for name, ops in EXTENSIONS.added.items():
        if ops:
            yield Finding(f"ops of {name}", State.OK, ", ".join(ops))
    for fault in EXTENSIONS.faults:
        yield Finding(f"ops of {fault.plugin}", State.BROKEN, str(fault), "mend the plug-in, or uninstall it")
    for name in plugins(TARGETS):
        try:
            records = sorted(path.stem for path in records_of(name).glob("*.toml"))
            yield Finding(f"targets of {name}", State.OK, ", ".join(records))
        except TargetError as error:
            yield Finding(f"targets of {name}", State.BROKEN, "; ".join(error.problems), error.hint)


def _cache() -> str:
    from flashir.files.atomic import atomic_write
    from flashir.machine.profile import cache_folder

    folder = cache_folder()
    probe = folder / "probe"
    atomic_write(probe, lambda file: file.write(b"flashir"))
    probe.unlink()
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
    """A tiny model, exported to a temporary folder, against the interpreter."""
    from tempfile import TemporaryDirectory

    from flashir.exporting.export import export
    from flashir.models.load import model

    with TemporaryDirectory(prefix="flashir-") as folder:
        made = export(model("flash", size="tiny"), folder, batch=1, seq_len=128)
    return f"a tiny model exported for onnx:cpu; {made.checks[-1]}"


def _show(findings: list[Finding]) -> None:
    styles = {State.OK: "green", State.ABSENT: "dim", State.BROKEN: "bold red"}
    table = console.table("", "", "")
    table.show_header = False
    for finding in findings:
        detail = f"{finding.detail}; {finding.hint}" if finding.hint else finding.detail
        table.add_row(finding.state.value, finding.what, detail, style=styles[finding.state])
    console.show(table)
