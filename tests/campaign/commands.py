"""Run command lines with valid and invalid options, values and files in this process.

A verb must exit with 0, with 1 if a check failed, or with 2 and one message. Its JSON must be valid.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import warnings
from functools import cache
from typing import Any

import typer
from typer.testing import CliRunner, Result

from flashir.cli.app import app
from tests.campaign.case import Case
from tests.campaign.props import make
from tests.campaign.verdict import WrongError, found, sign_of
from tests.campaign.weird import WORDS

FAILING = ("check", "doctor")
"""Verbs that may find a problem and exit with 1."""
SLOW = ("calibrate", "doctor", "bench", "tune", "train", "compare")
"""Verbs that take seconds and are drawn rarely."""
ALWAYS: dict[str, tuple[str, ...]] = {
    "bench": ("--lengths", "8", "--rounds", "1", "--limit", "60", "-s", "d_model=8", "-s", "depth=1", "--size", "tiny"),
    "train": ("--steps", "2", "--batch", "2", "--seq-len", "8", "--data", "text.txt"),
    "compare": (
        "--task", "recall", "--steps", "2", "--batch", "2", "--seq-len", "64", "--chunk", "16", "--system", "flash",
        "--validation-tokens", "64", "-s", "d_model=8", "-s", "depth=1", "-s", "key_dim=4",
    ),
    "tune": ("--seq-len", "16", "--budget", "0.1"),
    "check": ("--lengths", "5", "--batches", "1"),
    "eval": ("--data", "text.txt"),
    "generate": ("--tokens", "3"),
}  # fmt: skip
"""Options that keep a verb short. Drawn options follow and override them."""
SMALL = ("flash", "--size", "tiny")
MODELS: tuple[tuple[str, ...], ...] = (
    SMALL, SMALL, ("flash", "-s", "d_model=8", "-s", "depth=1", "-s", "vocab=256", "-s", "key_dim=4", "--chunk", "4"),
    ("transformer++", "--size", "tiny"), ("m.fir",), ("m.fir",), ("two.fir",), ("hidden.fir",), ("saved",), ("saved",),
    ("art",), ("art",), ("art/model.onnx",), ("run",), ("empty",), ("garbage",), ("there",), ("nosuch",), (),
    ("p.safetensors",), ("text.txt",), ("m.fir", "m.fir"),
)  # fmt: skip
FILES = (
    "m.fir", "two.fir", "hidden.fir", "saved", "saved/params.safetensors", "saved/manifest.json", "art",
    "art/model.onnx",
    "p.safetensors", "ids.npy", "floats.npy", "text.txt", "latin.txt", "tokenizer.json", "recipe.toml", "store.json",
    "run",
    "empty", "garbage", "there", "nosuch", "there/nosuch", "link", "",
)  # fmt: skip
PLACES = ("new", "new/er", "there", "text.txt", "saved", "art", "link", "n" * 300, "é ü", "", "empty")
RIGHT: dict[str, tuple[str, ...]] = {
    "size": ("tiny",), "task": ("lm", "mlm", "recall"), "chunk": ("4", "16"), "cumsum": ("scan", "matmul", "native"),
    "dtype": ("float32", "bfloat16", "float16"), "policy": ("quality", "fastest"), "seed": ("0", "7"),
    "batch": ("1", "2"),
    "seq_len": ("8", "16", "64"),
    "target": ("onnx:cpu", "onnx:cpu", "torch:cpu", "jax:cpu", "jax:tpu-v4x32", "torch:h200"),
    "lengths": ("5", "1,5", "5,,"), "batches": ("1", "2,1"), "length": ("5", "0", "40"), "offset": ("0", "3"),
    "rows": ("1", "2"),
    "max_len": ("40",), "tokens": ("3", "1"), "steps": ("1", "2"), "rounds": ("1",), "keep": ("1",), "top_k": ("3",),
    "top_p": ("0.5", "1"), "temperature": ("0", "1.5"), "prompt": ("It is", "é"), "stop": (".",),
    "quantize": ("int8", "float16"),
    "stage": ("blocks", "attention", "primitives", "lowered"), "scale": ("unit", "init"),
    "passes": ("canonicalise", "hoist"),
    "print_after": ("all", "hoist"), "fuel": ("0", "3"), "tolerance": ("0.5",), "budget": ("0.1",),
    "published": ("lm",),
    "learning_rate": ("1e-3",), "weight_decay": ("0",), "clip": ("0", "1"), "warmup": ("1",),
    "tokenizer": ("bytes", "tokenizer.json"),
    "settings": ("d_model=8", "depth=1", "vocab=256", "causal=false", "segments=true", "chunk=4"), "limit": ("60",),
    "save_every": ("1",), "validate_every": ("1",), "chunks": ("4", "4,8"), "name": ("onnx:cpu", "torch:h200"),
}  # fmt: skip
WRITES = ("out", "html", "dump_ir", "init", "export")
ODD = tuple(word for word in WORDS if "\0" not in word and len(word) < 10_000)
ENDLESS = (
    "steps",
    "tokens",
    "rounds",
    "limit",
    "length",
    "lengths",
    "seq_len",
    "batch",
    "max_len",
    "batches",
    "size",
    "budget",
    "seeds",
    "items",
    "validation_tokens",
)
"""Options whose large values are valid, but take too long for a campaign."""
LARGE = re.compile(r"\d{3,}|^(base|small|large|pg19)$")
NUMBER = re.compile(r"(?<![\w.])-?(nan|inf|infinity)(?![\w])", re.IGNORECASE)


@cache
def _verbs() -> dict[str, Any]:
    command: Any = typer.main.get_command(app)
    return dict(command.commands)


def case(case: Case) -> str:
    """A command line."""
    props = case.once("props", make)
    shutil.copytree(props, case.folder, dirs_exist_ok=True, symlinks=True)
    line = drawn(case.random)
    case.note("line", " ".join(map(repr, line)))
    with warnings.catch_warnings():
        result = CliRunner().invoke(app, line, input=case.random.choice([None, b"", b"text\n", b"\xff\xfe"]))
    case.note("stderr", result.stderr[-3000:])
    judge(line, result)
    return f"{next((word for word in line if word in _verbs()), 'none')}: {result.exit_code}"


def drawn(random: random.Random) -> list[str]:
    """A verb with a model if it takes one, and options with values."""
    verb = random.choice(sorted(_verbs()))
    if verb in SLOW and random.random() < 0.7:
        verb = random.choice(["plan", "run", "show", "new", "export", "generate", "eval"])
    options = [each for each in _verbs()[verb].params if each.name != "help"]
    wrong = 0.6 if verb in SLOW else 0.3
    line = [verb, *ALWAYS.get(verb, ())]
    if any(each.name in ("model", "systems", "name") and each.param_type_name == "argument" for each in options):
        names = ("onnx:cpu", "torch:h200", "nosuch", "") if verb in ("targets", "calibrate") else None
        line += [random.choice(names)] if names else random.choice(MODELS)
    named = [each for each in options if each.param_type_name == "option"]
    for option in random.sample(named, min(len(named), random.choice([0, 1, 1, 2, 2, 3, 5]))):
        line += _option(option, random, wrong)
    if random.random() < 0.05:
        line.insert(
            random.randrange(len(line) + 1), random.choice(["--nosuch", "-x", "--", "--help", "--debug", "extra"])
        )
    return line


def _option(option: Any, random: random.Random, wrong: float) -> list[str]:
    flag = random.choice(option.opts + option.secondary_opts)
    if option.is_flag:
        return [flag]
    metavar, name = str(option.metavar or "").upper(), str(option.name)
    if name in WRITES or flag in ("-o", "--out", "--html", "--dump-ir", "--init"):
        return [flag, random.choice(PLACES)]
    pool: tuple[str, ...] = RIGHT.get(name, ())
    if any(word in metavar for word in ("FILE", "FOLDER", "PATH", "RUN")):
        pool = (*pool, *FILES)
    if not pool or random.random() < wrong:
        pool = ODD
        if name in ENDLESS:
            pool = (*(word for word in ODD if not LARGE.search(word)), "-9999999999999999999999")
    return [flag, random.choice(pool)]


def judge(line: list[str], result: Result) -> None:
    """Raise WrongError if a verb ended in an invalid way."""
    verb = line[0]
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        reply = found(error)
        raise WrongError(f"{verb}: {reply.sign}", reply.what) from error
    said = result.stdout + result.stderr
    for words in ("Traceback", "this is a bug in flashir", "Exception ignored"):
        if words in said and "--debug" not in line:
            raise WrongError(f"{verb}: {words}: {sign_of(_cause(result.stderr))}", result.stderr[-800:])
    compares = verb == "run" and "--verify" in line and {"--seed", "--params"} & set(line)
    codes = (0, 1, 2) if verb in FAILING or compares else (0, 2)
    if result.exit_code not in codes:
        raise WrongError(f"{verb}: exit code {result.exit_code}", result.stderr[-800:])
    if result.exit_code == 2 and not result.stderr.strip():
        raise WrongError(f"{verb}: exit code 2 without a word", said[-800:])
    if result.exit_code == 2 and result.stderr.count("error:") != 1:
        raise WrongError(f"{verb}: not one error", result.stderr[-800:])
    if result.exit_code == 0 and "--help" not in line:
        if verb in ("run", "eval", "check", "bench", "tune", "train", "plan") and NUMBER.search(result.stdout):
            raise WrongError(f"{verb}: a number that is none, and exit code 0", result.stdout[-800:])
        if "--json" in line:
            _check_json(verb, result.stdout)


def _check_json(verb: str, text: str) -> None:
    def strange(word: str) -> None:
        raise WrongError(f"{verb}: {word} in JSON", text[:800])

    try:
        json.loads(text, parse_constant=strange)
    except ValueError as error:
        raise WrongError(f"{verb}: no JSON", f"{error}\n{text[:800]}") from error


def _cause(stderr: str) -> str:
    """The line of the traceback that names the exception."""
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    return lines[0] if lines else stderr
