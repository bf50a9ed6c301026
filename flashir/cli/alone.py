"""Options that stand alone: they end a verb before its work, so most of its other options would do nothing."""

from __future__ import annotations

import typer


def refuse_others(ctx: typer.Context, option: str, *fitting: str) -> None:
    """Raises SettingError with everything on the command line that an option that runs nothing has no use for."""
    from flashir.errors import SettingError

    given = [
        max(each.opts, key=len) if each.param_type_name == "option" else str(each.metavar).split()[0]
        for each in ctx.command.params
        if getattr(ctx.get_parameter_source(str(each.name)), "name", "") == "COMMANDLINE"
    ]
    others = [name for name in given if name not in (option, *fitting)]
    if others:
        raise SettingError(f"{option} stands alone: it runs nothing, so it takes no {', '.join(others)}")
