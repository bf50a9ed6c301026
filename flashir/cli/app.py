"""The command-line program and its verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from flashir.cli import (
    bench,
    calibrate,
    check,
    compare,
    console,
    doctor,
    eval,
    export,
    generate,
    import_model,
    new,
    ops,
    plan,
    run,
    show,
    targets,
    train,
    tune,
)
from flashir.cli.group import Cli, Verb
from flashir.cli.help import Section
from flashir.version import __version__

app = typer.Typer(
    name="flashir",
    cls=Cli,
    help="Compile gated-attention models: write one, choose its chunk for a device, train, export and run it.",
    epilog="flashir new flash --size base --task lm -o model.fir\n"
    "flashir plan model.fir --target onnx:cpu --seq-len 4096\n"
    "flashir export model.fir --target onnx:cpu -o out/\n"
    "flashir run out/ --text book.txt",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.echo(f"flashir {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of every error.", envvar="FLASHIR_DEBUG")
    ] = False,
) -> None:
    """Options before the verb. `--debug` is read where errors are printed."""


_VERBS: dict[Section, tuple[Callable[..., None], ...]] = {
    Section.MODEL: (new.new, import_model.import_model, show.show, ops.ops),
    Section.CHOOSE: (plan.plan, tune.tune),
    Section.TRAIN: (train.train, eval.eval, compare.compare),
    Section.USE: (export.export, generate.generate, run.run, check.check, bench.bench),
    Section.MACHINE: (targets.targets, calibrate.calibrate, doctor.doctor),
}
_NAMES = {"import_model": "import"}
"""Verbs whose names are Python keywords."""

for _section, _functions in _VERBS.items():
    for _function in _functions:
        app.command(_NAMES.get(_function.__name__, _function.__name__), cls=Verb, rich_help_panel=_section)(_function)
