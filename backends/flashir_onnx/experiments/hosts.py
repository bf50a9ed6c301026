"""One decoder graph against two, and ONNX Runtime GenAI against flashir's own loop.

    flashir export flash --size base --task lm --for genai --end-token ... -o one/     or --decode
    flashir export flash --size base --task lm --split -o two/
    python -m flashir_onnx.experiments.hosts one/ two/ --rounds 100

Tokens are timed with one thread, by processor time, which other programs on the machine disturb least. The two files
are read alternately, each in a process of its own, so that neither finds memory as the other left it. Where weights lie
in memory differs between processes and changes times by several percent, so there are five pairs. Memory is that of a
process of its own for each case, after a prompt and a token. GenAI is measured if the first folder is for it and the
package is installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from subprocess import PIPE, Popen

import numpy as np
import onnxruntime as ort

import flashir
from flashir.generation.generate import restored
from flashir.machine.peak_memory import resident_memory

PROMPT, TOKENS, WARM = 256, 64, 5
THIS = (sys.executable, "-m", __spec__.name if __spec__ else __name__)
"""This program."""


def reading(folder: Path, name: str) -> Callable[[], None]:
    """A function that reads a token of one row with decoder.onnx or step.onnx, states in place."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(folder / name, options)
    binding, first = session.io_binding(), 2 if name == "decoder.onnx" else 1
    binding.bind_output("logits")
    for before, after in zip(session.get_inputs()[first:], session.get_outputs()[1:], strict=True):
        dtype = np.int64 if "int64" in before.type else np.float32
        state = ort.OrtValue.ortvalue_from_numpy(np.zeros([1, *before.shape[1:]], dtype))
        binding.bind_ortvalue_input(before.name, state)
        binding.bind_ortvalue_output(after.name, state)
    position = 0

    def read() -> None:
        nonlocal position
        ids, places = np.ones((1,) * first, np.int64), np.full((1, 1), position)
        binding.bind_cpu_input("input_ids", ids)
        if first == 2:
            binding.bind_cpu_input("position_ids", places)
        session.run_with_iobinding(binding)
        position += 1

    return read


def served(folder: Path, name: str) -> None:
    """Read a token for each line of the input, and print its milliseconds of processor time."""
    read = reading(folder, name)
    for _ in sys.stdin:
        start = time.process_time()
        read()
        print(1e3 * (time.process_time() - start), flush=True)


def in_turn(folders: Sequence[Path], rounds: int) -> dict[str, float]:
    """Median milliseconds of a token of each file, and the median of their ratio. Each has a process of its own."""
    files = ("decoder.onnx", "step.onnx")
    times: dict[str, list[float]] = {name: [] for name in files}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Popen([*THIS, *map(str, folders), "--serve", name], stdin=PIPE, stdout=PIPE, text=True, bufsize=1)
            )
            for name in files
        }
        for number in range(rounds + WARM):
            for name in sorted(files, reverse=bool(number % 2)):
                inside, outside = workers[name].stdin, workers[name].stdout
                assert inside is not None and outside is not None
                inside.write("\n")
                times[name].append(float(outside.readline()))
        for worker in workers.values():
            worker.stdin.close()  # type: ignore[union-attr]
    ratios = [x / y for x, y in zip(times["decoder.onnx"][WARM:], times["step.onnx"][WARM:], strict=True)]
    return {**{name: median(ms[WARM:]) for name, ms in times.items()}, "ratio": median(ratios)}


def memory(folder: Path) -> dict[str, float]:
    """MiB of this process after a prompt and a token."""
    before = resident_memory() or 0
    decoder = restored(folder)
    state, _ = decoder.start([[1] * PROMPT])
    decoder.extend(state, [1])
    return {"MiB": ((resident_memory() or 0) - before) / 2**20}


def prompt(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds of processor time for a prompt of four pieces."""
    decoder, times = restored(folder), []
    for _ in range(rounds):
        start = time.process_time()
        decoder.start([[1] * 4 * PROMPT])
        times.append(1e3 * (time.process_time() - start))
    return {"ms": median(times)}


def loops(folder: Path) -> dict[str, float]:
    """Tokens a second of flashir's loop and of GenAI, and whether their tokens are equal."""
    import onnxruntime_genai as genai

    text = list(range(1, PROMPT + 1))
    decoder = restored(folder)
    mine: list[int] = []
    start = time.perf_counter()
    for row in flashir.generate(decoder, [text], tokens=TOKENS):
        mine.append(int(row[0]))
    middle = time.perf_counter()
    loaded = genai.Model(str(folder))
    params = genai.GeneratorParams(loaded)
    params.set_search_options(max_length=PROMPT + TOKENS)
    host = genai.Generator(loaded, params)
    begun = time.perf_counter()
    host.append_tokens(np.array(text, np.int32))
    theirs = []
    while not host.is_done():
        host.generate_next_token()
        theirs.append(int(host.get_next_tokens()[0]))
    end = time.perf_counter()
    equal = theirs == mine[: len(theirs)]
    return {"flashir": len(mine) / (middle - start), "genai": len(theirs) / (end - begun), "equal": float(equal)}


CASES: dict[str, Callable[[Sequence[Path], int], dict[str, float]]] = {
    **dict.fromkeys((f"a token, pair {number} of processes" for number in range(1, 6)), in_turn),
    "memory of decoder.onnx": lambda folders, rounds: memory(folders[0]),
    "memory of prefill.onnx and step.onnx": lambda folders, rounds: memory(folders[1]),
    "a prompt of 1024, decoder.onnx": lambda folders, rounds: prompt(folders[0], 3),
    "a prompt of 1024, prefill.onnx": lambda folders, rounds: prompt(folders[1], 3),
    "tokens a second": lambda folders, rounds: loops(folders[0]),
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER", help="with decoder.onnx; with step.onnx")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--serve", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        served(args.folders[args.serve == "step.onnx"], args.serve)
        return
    if args.case:
        print(json.dumps(CASES[args.case](args.folders, args.rounds)))
        return
    for case in CASES:
        command = [*THIS, *args.folders, "--rounds", args.rounds, "--case", case]
        ran = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        reason = (ran.stderr.strip().splitlines() or ["failed"])[-1]
        print(f"{case:40} {ran.stdout.strip() if not ran.returncode else reason}")


if __name__ == "__main__":
    main()
