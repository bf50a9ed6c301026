"""flashir calibrate: fit the record of a target to the machine at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from flashir.cli import console, options

WHOLE = 0.9
"""A warning appears if calibration gets a smaller share of the processor, because other work ran."""


def calibrate(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A target with an available device, such as onnx:cpu.")
    ],
    as_json: options.Json = False,
) -> None:
    """Measure this machine to make plans for it more accurate.

    This runs a few micro-benchmarks for some seconds and fits the numbers of the target to them. The result is stored
    for this processor and these versions of the libraries. Stop other work meanwhile: timings that spread too much are
    repeated, and finally refused. A number that its benchmark does not determine keeps its default.

    Examples:
        flashir calibrate onnx:cpu
        flashir calibrate torch:cpu --json
    """
    from flashir.cli.meter import meter
    from flashir.cli.targets import shown
    from flashir.interrupts import on_interrupt
    from flashir.machine.calibrate import calibrate as measure

    with on_interrupt("nothing was written, the old numbers stay"), meter() as step:
        calibration = measure(target, step)
    if calibration.share < WHOLE:
        console.note(
            f"calibration got {calibration.share:.0%} of the processor because other work ran: these "
            "numbers are those of a slower machine; stop the other work and calibrate again",
            "bold yellow",
        )
    if console.answer(calibration.as_dict(), as_json):
        return
    console.say(f"{target}, fitted to this machine", "bold")
    console.say()
    right = ("before", "after", "change", "kernel time", "spread")
    table = console.table("number", *right[:3], "measured by", *right[3:], right=right)
    for timing in calibration.timings:
        before, after = calibration.before.number(timing.tells), calibration.numbers.get(timing.tells)
        table.add_row(
            timing.tells,
            shown(timing.tells, before),
            "not measured" if after is None else shown(timing.tells, after),
            f"{after / before - 1:+.0%}" if before and after is not None else "-",
            timing.kernel,
            console.milliseconds(timing.ms),
            f"{timing.spread:.0%}",
        )
    console.show(table)
    console.say()
    console.say(f"stored in {calibration.path}")
