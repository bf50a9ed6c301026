"""The cost of data: seconds and memory to tokenise a text, milliseconds to read a batch.

    python -m flashir.experiments.data_speed TEXT_OR_FOLDER --bpe 32000 --rows 8 --seq-len 1024

Without `--bpe` tokens are bytes. Memory is the peak of the process in a stage, including Python and NumPy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypeVar

from flashir.experiments.command import count, guarded
from flashir.machine.peak_memory import forget_peak, peak_memory
from flashir.train.data import Batches, Corpus, TextBatches, Tokenizer, documents, tokenised

ROUNDS = 200
MIB = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """One stage of the measurement.

    Args:
        name: the name of the stage.
        seconds: its time.
        peak: its peak memory in bytes; None if the system does not report it.
    """

    name: str
    seconds: float
    peak: int | None

    def __str__(self) -> str:
        memory = "" if self.peak is None else f"{self.peak / MIB:8.0f} MiB"
        return f"{self.name:24}{self.seconds * 1e3:12.2f} ms{memory}"


def measure(
    paths: Sequence[str], bpe: int | None, rows: int, seq_len: int, report: Callable[[Stage], object]
) -> Corpus:
    """Process a text like a training run, with a temporary cache, and call `report` with each stage when it ends.

    Raises the errors of `documents`, `Tokenizer.trained` and `Batches`.
    """

    def timed(name: str, do: Callable[[], T]) -> T:
        forget_peak()
        begin = perf_counter()
        result = do()
        report(Stage(name, perf_counter() - begin, peak_memory()))
        return result

    with TemporaryDirectory() as cache:
        texts = timed("check", lambda: documents(paths))
        tokenizer = timed("tokenizer", lambda: Tokenizer.trained(texts, bpe) if bpe else Tokenizer.bytes())
        corpus = timed("tokenise", lambda: tokenised(texts, tokenizer, cache))
        timed("find again", lambda: tokenised(texts, tokenizer, cache))
        for name, task, segments in (("lm", "lm", False), ("lm, segments", "lm", True), ("mlm", "mlm", False)):
            batches = TextBatches(corpus, task, rows, seq_len, 0, segments, tokenizer.vocab)
            batches.at(0)
            report(Stage(f"a batch, {name}", median(_seconds(batches, step) for step in range(ROUNDS)), None))
    return corpus


def _seconds(batches: Batches, step: int) -> float:
    begin = perf_counter()
    batches.at(step)
    return perf_counter() - begin


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--bpe", type=int)
    parser.add_argument("--rows", type=count, default=8)
    parser.add_argument("--seq-len", type=count, default=1024)
    args = parser.parse_args(arguments)
    corpus = measure(args.paths, args.bpe, args.rows, args.seq_len, print)
    print(f"{len(corpus)} tokens in {len(corpus.spans)} documents")


if __name__ == "__main__":
    guarded(main)
