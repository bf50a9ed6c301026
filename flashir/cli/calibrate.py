"""flashir calibrate: fit the record of a target to the machine at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from flashir.cli import console, options


def calibrate(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A target whose device is at hand, such as onnx:cpu.")
    ],
    as_json: options.Json = False,
) -> None:
    """Measure this machine, so that plans for it are right.

    Runs a few micro-kernels for some seconds and fits the numbers of the target to them. The result is kept for this
    processor and these versions of the libraries. Let nothing else run meanwhile.

    Examples:
        flashir calibrate onnx:cpu
        flashir calibrate torch:cpu --json
    """
    from flashir.cli.meter import meter
    from flashir.cli.targets import shown
    from flashir.cost.calibrate import calibrate as measure

    with meter() as step:
        found = measure(target, step)
    if as_json:
        console.emit(found.as_dict())
        return
    console.say(f"{target}, fitted to this machine", "bold")
    console.say()
    right = ("before", "after", "change", "kernel time", "spread")
    table = console.table("number", *right[:3], "told by", *right[3:], right=right)
    for timing in found.timings:
        before, after = found.before.number(timing.tells), found.after.number(timing.tells)
        table.add_row(
            timing.tells,
            shown(timing.tells, before),
            shown(timing.tells, after),
            f"{after / before - 1:+.0%}" if before else "-",
            timing.kernel,
            console.milliseconds(timing.ms),
            f"{timing.spread:.0%}",
        )
    console.show(table)
    console.say()
    console.say(f"kept in {found.path}")
