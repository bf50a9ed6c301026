"""Verbs that write: a command line, its output, and how to read the output for comparison."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import flashir
from flashir.errors import FlashirError
from tests.campaign import formats
from tests.campaign.case import Case
from tests.campaign.processes import ended, start
from tests.campaign.props import make
from tests.campaign.verdict import WrongError


@dataclass(frozen=True)
class Writer:
    """A verb that writes.

    Args:
        line: the command line, with `{seed}`.
        out: the output file or folder.
        read: the folder of the output -> its content that matters.
        replaces: whether the verb replaces an old output, with `--force` or by default.
        repeats: whether the same line gives the same result, unlike measurements.
        grows: whether the output is a list of files, of which a stopped verb leaves the first ones.
        resumes: the command line that continues a stopped verb, which leaves any state that it can continue.
    """

    line: str
    out: str
    read: Callable[[Path], object]
    replaces: bool = True
    repeats: bool = True
    grows: bool = False
    resumes: str = ""

    @property
    def verb(self) -> str:
        """The first word of the line."""
        return self.line.split()[0]

    def words(self, seed: int) -> list[str]:
        """The line."""
        return self.line.format(seed=seed).split()

    def may_leave(self, content: object, before: object, new: object) -> bool:
        """Whether a verb that was stopped may leave this content: the old, the new, or a part that it can continue."""
        if self.resumes:
            return content is not None or before is None
        if self.grows and isinstance(new, list):
            return content is None or (isinstance(content, list) and content == new[: len(content)])
        return content == before or (content is not None and (content == new or not self.repeats))


def _bytes_of(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).read_bytes()


def _whole_html(folder: Path) -> object:
    text = (folder / "page.html").read_text(encoding="utf-8")
    return text.rstrip().endswith("</html>"), len(text)


def _logits(folder: Path) -> object:
    array = np.load(folder / "logits.npy")
    return array.shape, array.tobytes()


def _model_of(target: str) -> Callable[[Path], object]:
    read = formats.FORMATS[target].read
    return lambda folder: read(folder / "out")


def _params_of(folder: Path) -> object:
    found = flashir.load_checkpoint(folder / "made")
    return flashir.dumps(found.model), {name: array.tobytes() for name, array in found.params.items()}


def _run(folder: Path) -> object:
    from flashir.train.run_folder import RunFolder

    return formats._checkpoint(RunFolder(folder / "trained").newest())


def _store_rows(folder: Path) -> object:
    from flashir.planning.measurements.store import Store

    with Store(folder / ".cache" / "tune.sqlite") as store:
        return all(trial.measured_ms > 0 for trial in store.all())


def _bench(folder: Path) -> object:
    from flashir.bench.record import read_record

    return all(read_record(path).date for path in (folder / "results").glob("*.json"))


def _dumped(folder: Path) -> object:
    return [flashir.dumps(flashir.load(path)) for path in sorted((folder / "passes").glob("*.fir"))]


WRITERS: dict[str, Writer] = {
    "new": Writer("new flash --size tiny -s expansion={seed} -o made.fir --force", "made.fir", _bytes_of("made.fir")),
    "new --init": Writer("new flash --size tiny --init made --seed {seed}", "made", _params_of, replaces=False),
    "show --html": Writer("show m.fir --html page.html --force", "page.html", _whole_html),
    "show --dump-ir": Writer("show m.fir --stage lowered --dump-ir passes", "passes", _dumped, grows=True),
    "export onnx": Writer("export m.fir --seed {seed} -o out --force", "out", _model_of("onnx")),
    "export --decode": Writer("export m.fir --seed {seed} --decode -o out --force", "out", _model_of("onnx")),
    "export torch": Writer("export m.fir --seed {seed} --target torch:cpu -o out --force", "out", _model_of("pt2")),
    "export jax": Writer("export m.fir --seed {seed} --target jax:cpu -o out --force", "out", _model_of("jax")),
    "run -o": Writer("run m.fir --seed {seed} --ids ids.npy -o logits.npy", "logits.npy", _logits),
    "train": Writer(
        "train m.fir --recipe recipe.toml --seed {seed} -o trained",
        "trained",
        _run,
        replaces=False,
        resumes="train --resume trained",
    ),
    "tune": Writer("tune flash --size tiny --seq-len 64 --budget 1", ".cache", _store_rows, repeats=False),
    "bench": Writer(
        "bench flash --size tiny --lengths 8 --rounds 2 -o results", "results", _bench, replaces=False, repeats=False
    ),
}
OLD, NEW = 1, 2
"""The seeds of the old and of the new output."""


def drawn(case: Case, folder: Path) -> tuple[str, Writer, object, object]:
    """Draw a writer and prepare its folder.

    Returns:
        the name, the writer, the old content or None, and the content after an undisturbed run or None.
    """
    props = case.once("props", make)
    name = case.random.choice(list(WRITERS))
    writer = WRITERS[name]
    shutil.copytree(props, folder, symlinks=True)
    new = wanted(name, NEW, props) if writer.repeats else None
    before = finish(writer, folder, OLD) if writer.replaces and case.random.random() < 0.6 else None
    return name, writer, before, new


def state(writer: Writer, folder: Path) -> object:
    """The content of the output; None if there is none. Raises WrongError if it is damaged.

    A folder with only hidden or unfinished files has no content.
    """
    path = folder / writer.out
    if not path.exists() or (path.is_dir() and not _visible(path)):
        return None
    try:
        return writer.read(folder)
    except FlashirError as error:
        raise WrongError(f"{writer.verb}: what is left is neither old nor new", error.message) from error


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def finish(writer: Writer, folder: Path, seed: int, *, resume: bool = False) -> object:
    """Run the line undisturbed, or the one that resumes, and read its output. Raises WrongError if it fails."""
    line = writer.resumes.split() if resume else writer.words(seed)
    done = ended(start(line, folder), line)
    if done.code != 0:
        raise WrongError(f"{writer.verb}: fails where nothing disturbs it", done.stderr[-1500:])
    return state(writer, folder)


@cache
def wanted(name: str, seed: int, props: Path) -> object:
    """The content after an undisturbed run."""
    folder = props.parent / f"wanted-{name.replace(' ', '')}-{seed}"
    if not folder.exists():
        shutil.copytree(props, folder, symlinks=True)
        finish(WRITERS[name], folder, seed)
    return state(WRITERS[name], folder)
