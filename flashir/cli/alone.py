"""Options that would do nothing where they are given: each is an error that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flashir.cli.source import Source

CHOICES = ("chunk", "cumsum", "choose", "dtype", "policy", "rechunk")


def refuse_others(ctx: typer.Context, option: str, *fitting: str) -> None:
    """Raises SettingError with everything on the command line that an option that runs nothing has no use for."""
    from flashir.errors import SettingError

    others = [name for name in _given(ctx).values() if name not in (option, *fitting)]
    if others:
        raise SettingError(f"{option} stands alone: it runs nothing, so it takes no {', '.join(others)}")


def refuse_unused(ctx: typer.Context, found: Source, *planned: str) -> None:
    """Refuse what a model has no use for.

    Args:
        ctx: of the verb.
        found: its model. An export has its choices made; another takes the lengths that its types and ops allow.
        planned: the parameters of the verb, beside `CHOICES`, that are for planning alone, such as `seq_len`.

    Raises:
        SettingError: with all of them.
    """
    from flashir.errors import SettingError
    from flashir.planning.extent import Extent

    given, problems = _given(ctx), []
    if found.kind == "export":
        late = [given[name] for name in (*CHOICES, *planned) if name in given]
        if late:
            problems.append(f"{', '.join(late)} cannot be set: {found.word} is exported, its choices are made")
    elif "rechunk" in given and "chunk" not in given:
        problems.append("--rechunk does nothing without --chunk")
    if "strict" in given and "params" not in given:
        problems.append(f"{given['strict']} does nothing without --params")
    if found.kind != "export":
        extent = Extent.of(found.model)
        fits = {"batch": extent.rows, "seq_len": extent.tokens}
        for name in planned:
            if name in given and name in fits and fits[name](ctx.params[name]) != ctx.params[name]:
                problems.append(f"{given[name]} {ctx.params[name]}: @{found.model.name} takes {extent}")
    if problems:
        raise SettingError(problems)


def _given(ctx: typer.Context) -> dict[str, str]:
    """What stands on the command line: parameters of the verb by name, each as it is typed."""
    return {
        str(each.name): max(each.opts, key=len) if each.param_type_name == "option" else str(each.metavar).split()[0]
        for each in ctx.command.params
        if getattr(ctx.get_parameter_source(str(each.name)), "name", "") == "COMMANDLINE"
    }
