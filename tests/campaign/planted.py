"""Planted faults, by the number of the case, that a campaign must notice or let pass."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from flashir.errors import SettingError
from flashir.files.atomic import atomic_write
from tests.campaign.case import Case
from tests.campaign.verdict import WrongError


def case(case: Case) -> str:
    """ok, refused, a wrong number, a leaking exception, a crash, unbounded memory, or a hang."""
    case.note("number", case.number)
    match case.number % 7:
        case 0:
            return "ok"
        case 1:
            raise SettingError("refused as it should be")
        case 2:
            raise WrongError("another number", "1 became 2")
        case 3:
            atomic_write(case.folder / "file", lambda file: 1 / 0)
        case 4:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 5:
            kept = []
            while True:
                kept.append(np.ones(2**24))
                time.sleep(0.05)
        case 6:
            while True:
                pass
    raise AssertionError("nothing was planted")
