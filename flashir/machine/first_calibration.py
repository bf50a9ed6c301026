"""Calibrate when a processor is first planned for, if the user asks for that with FLASHIR_CALIBRATE=first."""

from __future__ import annotations

import os
import warnings

from flashir.errors import ArtefactError, SettingError, TargetError
from flashir.machine.profile import has_profile, write_profile
from flashir.machine.targets import target

SETTING = "FLASHIR_CALIBRATE"
FIRST, OFF = "first", "off"
SECONDS = 2.0
"""After these no further round of measurements starts. With the fit, it takes about twice as long."""


def calibrate_first(name: str) -> None:
    """Calibrate the target of a processor that has no profile for this machine and these library versions.

    A machine that is too busy is told so in one warning, and is not measured again by the next plan. Other targets, and
    backends that are not installed, are left as they are.

    Raises:
        SettingError: the setting is neither `first` nor `off`.
        TargetError: the target is unknown.
    """
    setting = os.environ.get(SETTING) or OFF
    if setting not in (FIRST, OFF):
        raise SettingError(f"{SETTING} must be {FIRST} or {OFF}, got {setting!r}")
    record = target(name, calibrated=False)
    if setting == OFF or not record.is_here or record.device != "cpu":
        return
    from flashir.machine.calibrate import calibrate

    try:
        if has_profile(record):
            return
    except TargetError:  # the backend is not installed
        return
    try:
        calibrate(name, seconds=SECONDS)
    except (TargetError, ArtefactError) as error:
        reason = error.where or error.problems[0]
        warnings.warn(f"{name} is planned by its shipped record: {reason}; try `flashir calibrate`", stacklevel=3)
        try:
            write_profile(record, {})
        except (ArtefactError, TargetError):  # then the next plan tries again
            return
