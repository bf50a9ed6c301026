"""Rejects options that would have no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flashir.cli.source import Source

CHOICES = ("chunk", "cumsum", "choose", "dtype", "policy", "rechunk")


def refuse_others(ctx: typer.Context, option: str, *fitting: str) -> None:
    """Raises SettingError with all other options given together with an option that runs nothing."""
    from flashir.errors import SettingError

    others = [name for name in typed(ctx).values() if name not in (option, *fitting)]
    if others:
        raise SettingError(f"{option} runs nothing, so it takes no {', '.join(others)}")


def refuse_unused(ctx: typer.Context, model: Source, *planned: str) -> None:
    """Reject options that have no effect on a model.

    Args:
        ctx: the context of the verb.
        model: the model. The choices of an exported model are fixed; others take the sizes that their types and ops
            allow.
        planned: parameters of the verb only used for planning, in addition to `CHOICES`, such as `seq_len`.

    Raises:
        SettingError: options have no effect.
    """
    from flashir.errors import SettingError
    from flashir.planning.extent import Extent

    spelling, problems = typed(ctx), []
    if model.kind == "export":
        late = [spelling[name] for name in (*CHOICES, *planned) if name in spelling]
        if late:
            problems.append(f"{', '.join(late)} cannot be set: {model.word} is exported, its choices are fixed")
    elif "rechunk" in spelling and "chunk" not in spelling:
        problems.append("--rechunk does nothing without --chunk")
    if "strict" in spelling and "params" not in spelling:
        problems.append(f"{spelling['strict']} does nothing without --params")
    if model.kind != "export":
        extent = Extent.of(model.model)
        fits = {"batch": extent.rows, "seq_len": extent.tokens, "length": extent.tokens}
        for name in planned:
            if name in spelling and name in fits and fits[name](ctx.params[name]) != ctx.params[name]:
                problems.append(f"{spelling[name]} {ctx.params[name]}: @{model.model.name} takes {extent}")
    if problems:
        raise SettingError(problems)


def refuse_together(*combinations: tuple[bool, str, str]) -> None:
    """Raise SettingError for the first combination of options that was given, with its problem and its hint."""
    from flashir.errors import SettingError

    for is_given, problem, hint in combinations:
        if is_given:
            raise SettingError(problem, hint=hint)


def typed(ctx: typer.Context) -> dict[str, str]:
    """The parameters given on the command line: name -> spelling."""
    return {
        str(param.name): max(param.opts, key=len)
        if param.param_type_name == "option"
        else str(param.metavar).split()[0]
        for param in ctx.command.params
        if getattr(ctx.get_parameter_source(str(param.name)), "name", "") == "COMMANDLINE"
    }
