"""Verbs that write to a full disk: one message, exit code 2, and existing files stay whole."""

from __future__ import annotations

from tests.campaign.case import Case
from tests.campaign.processes import ended, judge, start
from tests.campaign.verdict import WrongError
from tests.campaign.writers import NEW, drawn, finish, state

BYTES = (0, 1, 10, 100, 1000, 4096, 10_000, 20_000, 50_000, 100_000, 300_000)
WARNING_ONLY = ("tune",)
"""Verbs that write a cache. They continue without it, with a warning."""


def case(case: Case) -> str:
    """A command line on a full disk, then on one with space."""
    random, folder = case.random, case.folder / "work"
    name, writer, before, new = drawn(case, folder)
    room = random.choice([random.choice(BYTES), random.randrange(60_000)])
    line = writer.words(NEW)
    case.note("disk", f"{' '.join(line)}: {room} bytes a file, something there: {before is not None}")
    done = ended(start(line, folder, largest_file=room, env={"PYTHONDONTWRITEBYTECODE": "1"}), line)
    judge(name, done, (0, 2))
    after = state(writer, folder)
    if done.code == 0 and name in WARNING_ONLY:
        return f"{name}: done"
    if done.code == 0 and (after is None or (writer.repeats and after != new)):
        raise WrongError(f"{name}: exit code 0, and nothing is written", done.stderr[-500:])
    if done.code == 2:
        if done.stderr.count("error:") != 1:
            raise WrongError(f"{name}: not one error", done.stderr[-1500:])
        if not writer.may_leave(after, before, new):
            raise WrongError(f"{name}: what was there is not whole", str(after)[:200])
        if left := [path.name for path in folder.rglob(".*.unfinished")]:
            raise WrongError(f"{name}: something unfinished is left", ", ".join(left))
    if after is not None and not writer.replaces:
        return f"{name}: {done.code}"
    if writer.repeats and finish(writer, folder, NEW) != new:
        raise WrongError(f"{name}: another result after a full disk")
    return f"{name}: {done.code}"
