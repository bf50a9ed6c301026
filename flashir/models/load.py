"""Build a model by name, or load it from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashir.arguments import shown, typed
from flashir.backends.frontend import Described
from flashir.backends.registry import broken_frontends, frontends
from flashir.errors import InputError, SettingError, suggest
from flashir.files.foreign import read_text
from flashir.files.kinds import given_as_model
from flashir.ir import Auto, DType, Graph, loads
from flashir.ir.dims import plain
from flashir.ir.graph import Attr
from flashir.ir.verify import verify
from flashir.plugins import FRONTENDS, at_fault

HINT = "a model is the text of a .fir file, or the folder of a checkpoint, a run or an export"
_SETTINGS = (bool, int, float, str, DType, Auto, type(None))


@typed
def model(name: str, **settings: Any) -> Graph:
    """Build a model of the zoo or of another installed frontend.

    Args:
        name: such as `flash` or `flash-quad`.
        settings: such as `size="base"`, `task="lm"`, `d_model=512`, `depth=12`, `vocab=256`, `chunk=256`.

    Raises:
        SettingError: the name is unknown or that of several plug-ins, or settings are unknown or invalid; lists all.
        TargetError: the frontend built no graph.
    """
    own = {key: plain(value) for key, value in settings.items()}
    if odd := [f"{key} cannot be {shown(value)}" for key, value in own.items() if not isinstance(value, _SETTINGS)]:
        raise SettingError(odd, where=name, hint="settings are numbers, strings and booleans")
    sources = {plugin: frontend for plugin, frontend in frontends().items() if name in frontend.models()}
    if not sources:
        raise SettingError(no_such_model(name))
    if len(sources) > 1:
        raise SettingError(
            f"the model {name!r} is in the plug-ins {' and '.join(sources)}", hint="uninstall all but one of them"
        )
    ((plugin, frontend),) = sources.items()
    graph: object = frontend.build(name, own)
    if not isinstance(graph, Graph):
        raise at_fault(FRONTENDS, plugin, f"it built {shown(graph)} as the model {name!r}, not a Graph")
    return graph


def model_names() -> list[str]:
    """The names of the models of every frontend that loads."""
    return [name for frontend in frontends().values() for name in frontend.models()]


def no_such_model(name: str) -> list[str]:
    """The problems of a name that no model has: the name, and each frontend that does not load."""
    broken = [problem for error in broken_frontends().values() for problem in error.problems]
    return [f"unknown model {name!r}{suggest(name, model_names())}", *broken]


def accepted(name: str, settings: Mapping[str, Attr]) -> dict[str, Attr]:
    """The settings that a named model accepts; none if its frontend does not describe its settings."""
    described = (frontend for frontend in frontends().values() if isinstance(frontend, Described))
    specs = next((frontend.settings(name) for frontend in described if name in frontend.models()), {})
    return {key: value for key, value in settings.items() if key in specs and specs[key].problem(key, value) is None}


@typed
def load(path: str | Path) -> Graph:
    """Load the model in a `.fir` file.

    Raises:
        InputError: the file cannot be read as UTF-8 text, or holds parameters or a model of another system.
        IRError: the text is malformed or ill-typed, with line:column.
    """
    path = Path(path)
    if (kind := given_as_model(path)) is not None:
        raise InputError(f"this is {kind.what}, not a model", where=str(path), hint=kind.as_model or HINT)
    text = read_text(path, InputError, problem="cannot read the model", streams=True)
    graph = loads(text, str(path))
    verify(graph)
    return graph
