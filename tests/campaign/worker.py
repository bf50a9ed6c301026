"""A worker process: it reads numbers of cases from standard input, runs them, and replies on a descriptor.

python -m tests.campaign.worker KIND SEED SCRATCH SHARED DESCRIPTOR
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from tests.campaign.case import run
from tests.campaign.kinds import KINDS


def main() -> None:
    """Work until standard input ends."""
    kind, seed, scratch, shared = KINDS[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    replies = os.fdopen(int(sys.argv[5]), "w", encoding="utf-8", errors="backslashreplace")
    numbers = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what a case reads from there ends at once
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    warnings.simplefilter("ignore")
    os.chdir(scratch)
    for line in numbers:
        reply = run(kind, seed, int(line), scratch, shared)
        replies.write(json.dumps(asdict(reply)) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
