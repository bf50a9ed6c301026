"""The help: a usage line, a description, options in groups, and examples, without boxes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from enum import StrEnum
from shutil import get_terminal_size
from typing import Any

from rich.padding import Padding
from rich.text import Text

from flashir.cli import console, tables

EXAMPLES = "Examples:"
HELP_WIDTH = 110
NAMES = 10  # width of the column of verbs
Row = tuple[str, str]


class Section(StrEnum):
    """The groups of verbs in the list of all."""

    MODEL = "Models"
    CHOOSE = "Choose the chunk"
    TRAIN = "Train"
    USE = "Export and run"
    MACHINE = "This machine"


def verb_help(command: Any, ctx: Any) -> None:
    """Print the description of a verb, its arguments and options, and the examples in its docstring."""
    description, _, examples = inspect.cleandoc(command.help or "").partition(EXAMPLES)
    params = command.get_params(ctx)
    arguments = [param for param in params if param.param_type_name == "argument"]
    usage = " ".join([ctx.command_path, *(_argument(param)[0] for param in arguments), "[OPTIONS]"])
    groups: dict[str, list[Row]] = {"Arguments": [_argument(param) for param in arguments]}
    for param in params:
        record = param.get_help_record(ctx)
        if record is not None and param not in arguments:
            groups.setdefault(getattr(param, "rich_help_panel", None) or "Options", []).append(record)
    lists = [part for title, rows in groups.items() if rows for part in _list(title, rows)]
    _print(_usage(usage), *_paragraphs(description), *lists, *_examples(inspect.cleandoc(examples).splitlines()))


def group_help(group: Any, ctx: Any) -> None:
    """Print the verbs by section, one per line."""
    sections: dict[str, list[Row]] = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        line = inspect.cleandoc(command.help or "").partition("\n\n")[0]
        section = str(getattr(command, "rich_help_panel", None) or "Commands")
        sections.setdefault(section, []).append((name, " ".join(line.split())))
    records = [param.get_help_record(ctx) for param in group.get_params(ctx)]
    sections["Options"] = [record for record in records if record is not None]
    lists = [part for title, rows in sections.items() for part in _list(title, rows, NAMES)]
    examples = _examples((group.epilog or "").splitlines())
    _print(_usage("flashir VERB [OPTIONS]"), *_paragraphs(group.help or ""), *lists, *examples)


def _argument(param: Any) -> Row:
    name = param.metavar or param.name.upper()
    return (name if param.required else f"[{name}]"), param.help or ""


def _print(*parts: Any) -> None:
    console.show(*parts, width=min(HELP_WIDTH, get_terminal_size((HELP_WIDTH, 0)).columns))


def _usage(text: str) -> Text:
    return Text.assemble("\n", ("Usage: ", "dim"), (text, "bold"))


def _paragraphs(text: str) -> list[Any]:
    lines = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    return [part for line in lines for part in ("", _indented(Text(line)))]


def _list(title: str, rows: Iterable[Row], width: int = 0) -> list[Any]:
    grid = tables.pairs("cyan", width)
    for name, text in rows:
        grid.add_row(Text(name), Text(text))
    return ["", Text(title, "bold yellow"), _indented(grid)]


def _examples(lines: Iterable[str]) -> list[Any]:
    shown = [Text(line.strip(), "green") for line in lines if line.strip()]
    return ["", Text("Examples", "bold yellow"), *map(_indented, shown)] if shown else []


def _indented(part: Any) -> Padding:
    return Padding(part, (0, 0, 0, 2))
