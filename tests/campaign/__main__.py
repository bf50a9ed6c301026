"""The command line of the campaign."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.campaign.case import parse
from tests.campaign.crew import Worker
from tests.campaign.hunt import Hunt
from tests.campaign.kinds import KINDS, SHOWN, chosen
from tests.campaign.ledger import Ledger
from tests.campaign.progress import Progress, summary
from tests.campaign.verdict import UsageError

EXAMPLES = """\
examples:
  python -m tests.campaign                                  two minutes of every kind, seed 0
  python -m tests.campaign --minutes 240 --seed 7 --out night/
  python -m tests.campaign --resume night/ --minutes 60     go on, also after a kill
  python -m tests.campaign --kinds texts,api --cases 500    500 cases of each of these kinds
  python -m tests.campaign --minutes 2 --seed daily         a new seed every day, which is printed
  python -m tests.campaign --replay texts:7:123             one case again, with its details

exit codes: 0 no findings, 1 findings, 2 invalid arguments, 130 interrupted
"""


def main(words: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    try:
        return _run(_options(words))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _options(words: list[str] | None) -> argparse.Namespace:
    width = max(map(len, SHOWN))
    about = "\n".join(f"  {name:{width}}  {KINDS[name].about}" for name in SHOWN)
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description="Hunt for faults of flashir: wrong numbers, exceptions other than FlashirError, crashes, hangs.",
        epilog=f"kinds:\n{about}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="duration [default: 2]")
    parser.add_argument("--cases", type=int, metavar="N", help="run N cases of each kind instead")
    parser.add_argument("--seed", metavar="S", help="a whole number, or `daily` for the date of today [default: 0]")
    parser.add_argument("--kinds", metavar="NAME,..", help="only these kinds")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of findings [default: campaign-SEED-TIME]")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="continue the campaign in this folder")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes at a time [default: 2]")
    parser.add_argument("--replay", metavar="KIND:SEED:NUMBER", help="run one case and show its details")
    parser.add_argument("--json", action="store_true", help="one JSON value on standard output")
    return parser.parse_args(words)


def _run(options: argparse.Namespace) -> int:
    if options.replay is not None:
        return _replay(options.replay, options.json)
    minutes = 2.0 if options.minutes is None and options.cases is None else options.minutes
    if (minutes is not None and not minutes > 0) or (options.cases is not None and options.cases < 1):
        raise UsageError("--minutes and --cases must be more than 0")
    if options.workers < 1:
        raise UsageError("--workers must be at least 1")
    ledger = _ledger(options)
    kinds = tuple(KINDS[name] for name in ledger.counts) if options.kinds is None else chosen(options.kinds)
    seconds = None if minutes is None else 60 * minutes
    print(f"seed {ledger.seed}, findings go to {ledger.folder}", file=sys.stderr, flush=True)
    progress = Progress(ledger, seconds)
    try:
        Hunt(ledger, kinds, seconds, options.workers, progress, options.cases).run()
    finally:
        progress.done()
        if options.json:
            print(json.dumps({"seed": ledger.seed, "out": str(ledger.folder), "kinds": _kinds(ledger)}, indent=2))
        else:
            print(summary(ledger))
    return int(any(count.found for count in ledger.counts.values()))


def _kinds(ledger: Ledger) -> dict[str, object]:
    return {name: {**asdict(count), "cases": count.cases} for name, count in ledger.counts.items()}


def _ledger(options: argparse.Namespace) -> Ledger:
    if options.resume is not None:
        if options.seed is not None or options.out is not None:
            raise UsageError("--resume keeps the seed and the folder; leave out --seed and --out")
        return Ledger.read(options.resume, None if options.kinds is None else chosen(options.kinds))
    seed = _seed(options.seed)
    out = options.out or Path(f"campaign-{seed}-{time.strftime('%Y%m%d-%H%M%S')}")
    return Ledger.new(out, seed, chosen(options.kinds))


def _seed(text: str | None) -> int:
    if text == "daily":
        return int(datetime.datetime.now(datetime.UTC).strftime("%Y%m%d"))
    if text is not None and not text.isdecimal():
        raise UsageError(f"--seed must be a whole number from 0, or daily, got {text!r}")
    return int(text or 0)


def _replay(name: str, as_json: bool) -> int:
    kind, seed, number = parse(name)
    worker = Worker(kind, seed, talk=not as_json)
    try:
        reply = worker.run(number)
    finally:
        worker.close()
    if as_json:
        print(json.dumps(asdict(reply), indent=2))
    elif reply.is_finding:
        print(f"FOUND {reply.sign}\n{reply.what}\n{reply.detail}")
    else:
        print(f"{reply.outcome}, in {reply.seconds:.1f} s")
    return int(reply.is_finding)


if __name__ == "__main__":
    sys.exit(main())
