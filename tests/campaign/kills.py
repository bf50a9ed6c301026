"""Verbs that write, killed at a random moment: the output must be old or new, and the verb must work again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.campaign.case import Case
from tests.campaign.processes import ended, judge, start, wait_for
from tests.campaign.verdict import WrongError
from tests.campaign.writers import NEW, drawn, finish, state

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {
    signal.SIGKILL: (0, -9),
    signal.SIGTERM: (0, -15, 143, 130),
    signal.SIGINT: (0, 130, -2),
}
"""The allowed exit codes after a signal: by the signal, quietly, or already done."""
AT_MOST = 20.0
"""Seconds after which a process that has written nothing is ended."""


def case(case: Case) -> str:
    """A command line that is killed once and then run to its end."""
    random, folder = case.random, case.folder / "work"
    name, writer, before, new = drawn(case, folder)
    sent, line = random.choice(SIGNALS), writer.words(NEW)
    process = start(line, folder)
    if random.random() < 0.7:
        was = _seen(folder)
        wait_for(lambda: _seen(folder) != was, process, AT_MOST)
        time.sleep(random.random() * random.choice([0.0, 0.01, 0.1, 0.5]))
    else:
        time.sleep(random.random() * 6)
    case.note("kill", f"{' '.join(line)}: {sent.name}, something there: {before is not None}")
    process.send_signal(sent)
    done = ended(process, line)
    judge(name, done, CODES[sent])
    after = state(writer, folder)
    if not writer.may_leave(after, before, new):
        raise WrongError(f"{name}: neither old nor new", f"{sent.name}: {str(after)[:200]}")
    resume = after is not None and bool(writer.resumes)
    if after is not None and not writer.replaces and not resume:
        return f"{name}: done before"
    again = finish(writer, folder, NEW, resume=resume)
    if writer.repeats and again != new:
        raise WrongError(f"{name}: another result after a kill", str(again)[:200])
    return f"{name}: {sent.name}"


def _seen(folder: Path) -> list[tuple[str, int]]:
    """The names and sizes of all files, to notice the first write."""
    seen = []
    for path in folder.rglob("*"):
        try:
            seen.append((path.name, path.lstat().st_size))
        except OSError:
            continue
    return sorted(seen)
