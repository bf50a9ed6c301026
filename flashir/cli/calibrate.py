"""flashir calibrate: fit the record of a target to the machine at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from flashir.cli import console, options

WHOLE = 0.9
"""The share of the processor from which on nothing else can have run for long."""


def calibrate(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A target whose device is at hand, such as onnx:cpu.")
    ],
    as_json: options.Json = False,
) -> None:
    """Measure this machine, so that plans for it are right.

    Runs a few micro-kernels for some seconds and fits the numbers of the target to them. The result is kept for this
    processor and these versions of the libraries. Let nothing else run meanwhile: timings too far apart are taken
    again, and refused in the end. A number that its kernel does not tell stays as shipped.

    Examples:
        flashir calibrate onnx:cpu
        flashir calibrate torch:cpu --json
    """
    from flashir.cli.meter import meter
    from flashir.cli.targets import shown
    from flashir.interrupts import kept
    from flashir.machine.calibrate import calibrate as measure

    with kept("nothing was written, the numbers are what they were"), meter() as step:
        found = measure(target, step)
    if found.share < WHOLE:
        console.note(
            f"other work ran beside this, which got {found.share:.0%} of the processor: these numbers are those of a "
            "slower machine; stop it, and calibrate again",
            "bold yellow",
        )
    if console.answer(found.as_dict(), as_json):
        return
    console.say(f"{target}, fitted to this machine", "bold")
    console.say()
    right = ("before", "after", "change", "kernel time", "spread")
    table = console.table("number", *right[:3], "told by", *right[3:], right=right)
    for timing in found.timings:
        before, after = found.before.number(timing.tells), found.numbers.get(timing.tells)
        table.add_row(
            timing.tells,
            shown(timing.tells, before),
            "not told" if after is None else shown(timing.tells, after),
            f"{after / before - 1:+.0%}" if before and after is not None else "-",
            timing.kernel,
            console.milliseconds(timing.ms),
            f"{timing.spread:.0%}",
        )
    console.show(table)
    console.say()
    console.say(f"kept in {found.path}")
