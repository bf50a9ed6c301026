"""A comparison of systems: all trials one after the other, and the results so far after each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from flashir.bench.record import Machine
from flashir.compare.picture import draw
from flashir.compare.summary import summaries, table
from flashir.compare.trial import Row, Trial, results
from flashir.errors import ArtefactError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import read_text
from flashir.models.checkpoint import TOKENIZER
from flashir.train.feed import Data
from flashir.train.loop import Progress

SETTINGS, RESULT = "settings.json", "comparison"


class Watch(Protocol):
    """Displays the progress of a comparison."""

    def begins(self, trial: Trial) -> Progress:
        """A run begins, or is resumed. Returns the display of its steps."""
        ...

    def ended(self, row: Row) -> None:
        """A run is finished, with this result."""
        ...


def compare(
    trials: Sequence[Trial], data: Data, settings: Mapping[str, Any], out: Path, watch: Watch
) -> dict[str, Any]:
    """Run the trials, and write `comparison.json`, `.md` and `.svg` of all runs in the folder after each.

    Args:
        trials: the trials, in order.
        data: the data of all.
        settings: what all trials have in common. An interrupted comparison with the same settings is resumed, and may
            have other systems, rates and seeds than before.
        out: the folder.
        watch: displays the progress.

    Raises:
        ArtefactError: the folder holds another comparison or other files, or cannot be written.
        FlashirError: as for `train`, but a run that diverges is a result.
        KeyboardInterrupt: the comparison was interrupted; its progress is saved.
    """
    _claim(out, settings)
    for trial in trials:
        if not trial.is_done:
            watch.ended(trial.result(data, partial(watch.begins, trial)))
            _write(trials, settings, out)
    return _write(trials, settings, out)


def _write(trials: Sequence[Trial], settings: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write what all runs in the folder have learned so far."""
    rows = results(out, trials)
    machine = asdict(Machine.here((trials[0].recipe.target,)))
    result = {"settings": dict(settings), "machine": machine, "systems": summaries(rows), "runs": rows}
    contents = {"json": json.dumps(result, indent=1), "md": table(rows), "svg": draw(rows)}
    for suffix, text in contents.items():
        atomic_write(out / f"{RESULT}.{suffix}", lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    return result


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Store the settings of a comparison. Raises ArtefactError if the folder holds another, or anything else."""
    text = json.dumps(settings, indent=1)
    file = out / SETTINGS
    if not file.exists() and out.is_dir() and any(_is_foreign(path) for path in out.iterdir()):
        raise ArtefactError(
            "the folder is not empty, and holds no comparison", where=str(out), hint="choose another folder with -o"
        )
    if file.exists() and read_text(file, ArtefactError) != text:
        raise ArtefactError("another comparison is there", where=str(out), hint="choose another folder with -o")
    atomic_write(file, lambda stream: stream.write(text.encode()))


def _is_foreign(path: Path) -> bool:
    """Whether a path is no trace of a comparison that was interrupted before its settings were stored."""
    return path.name != TOKENIZER and not path.name.startswith(".")
