"""Mutated IR texts: they must parse and print to the same graph, or be refused quickly."""

from __future__ import annotations

import random
import re
import time

from flashir import dumps, loads, plan
from flashir.errors import FlashirError
from flashir.ir import Graph
from flashir.ir.parameter_names import parameters
from flashir.ir.verify import verify
from flashir.ops import OPS
from tests.campaign.case import Case
from tests.campaign.compose import drawn
from tests.campaign.verdict import ROOT, WrongError

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[%@]?[A-Za-z0-9_.]+|->|\s+|.', re.DOTALL)
WORDS = (
    "auto", "none", "true", "false", "model", "return", "yield", "ceildiv", "repeat", "scan", "T", "B", "-1", "0", "1",
    "9999999999999", "1e999", "1e-999", "nan", "-0.0", '"', '""', '"\\ud800"', "{", "}", "(", ")", "[", "]", "%",
    "@", ",",
    ":", "=", "*", "+", "//", "#", "\0", "\ufeff", "\u2028", "é", "\U0001d7d9", "\u0661", "f32", "bf16", "i64",
    "bool", "f16", "f64",
)  # fmt: skip
CHARACTERS = "%@{}()[]<>=,:;*+-./\\\"' \n\tabcT019_~$é\0"
SECONDS = 5.0


def case(case: Case) -> str:
    """A mutated text."""
    text = mutated(seed_text(case), case.random)
    case.note("text", text)
    started = time.process_time()
    try:
        graph = loads(text, "mutated.fir")
    except FlashirError as error:
        outcome = "refused"
        if len(error.message) > 5000:
            raise WrongError("a message without end", f"{len(error.message)} characters") from error
    else:
        outcome = _read(graph)
    if (took := time.process_time() - started) > SECONDS:
        raise WrongError("a text takes too long", f"{took:.1f} s for {len(text):,} characters")
    return outcome


def _read(graph: Graph) -> str:
    """Check that a parsed graph prints and parses to the same graph, and plans or is refused."""
    printed = dumps(graph)
    try:
        again = loads(printed)
    except FlashirError as error:
        raise WrongError("what is printed is refused", f"{error.message}\n{printed}") from error
    if again != graph or dumps(again) != printed:
        raise WrongError("what is printed is read as another graph", printed)
    try:
        verify(again)
        parameters(again)
        plan(again, "onnx:cpu", seq_len=16, measured=False)
    except FlashirError:
        return "read, and refused"
    return "read, and planned"


def seed_text(case: Case) -> str:
    """A valid text of a random model, of an op, or of a test file."""
    random = case.random
    if random.random() < 0.3:
        files = sorted((ROOT / "tests" / "filecheck").rglob("*.fir"))
        return random.choice(files).read_text(encoding="utf-8")
    if random.random() < 0.3:
        return _of_an_op(random)
    pool = case.once("texts", lambda path: path.mkdir())
    number = random.randrange(60)
    path = pool / str(number)
    if not path.exists():
        made = drawn(type(random)(f"texts:{case.seed}:{number}"))
        path.write_text(dumps(made.graph, types=number % 3 == 0), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _of_an_op(random: random.Random) -> str:
    from flashir.ir.examples import sample_graph

    record = random.choice([record for record in OPS.values() if record.samples])
    return dumps(sample_graph(record, random.choice(record.samples)), types=random.random() < 0.5)


def mutated(text: str, random: random.Random) -> str:
    """Apply a few random changes."""
    for _ in range(random.choice([1, 1, 1, 1, 1, 1, 2, 2, 3, 6])):
        text = random.choice(CHANGES)(text, random)
    return text[:200_000]


def _token(text: str, random: random.Random) -> str:
    """Replace a token by another one, a word, or a nearby number."""
    tokens = TOKEN.findall(text)
    if not tokens:
        return random.choice(WORDS)
    at = random.randrange(len(tokens))
    if tokens[at].isdecimal() and random.random() < 0.5:
        n = int(tokens[at][:30])
        tokens[at] = str(random.choice([n + 1, n - 1, -n, n * 2, n * 1000, 2**31, 2**40 + 1, 2**63, 10**30]))
    else:
        tokens[at] = random.choice([random.choice(tokens), random.choice(WORDS), random.choice(sorted(OPS))])
    return "".join(tokens)


def _gone(text: str, random: random.Random) -> str:
    """Remove tokens."""
    tokens = TOKEN.findall(text)
    at = random.randrange(len(tokens) + 1)
    del tokens[at : at + random.choice([1, 1, 2, 5])]
    return "".join(tokens)


def _twice(text: str, random: random.Random) -> str:
    """Repeat a piece, elsewhere or many times."""
    a, b = sorted((random.randrange(len(text) + 1), random.randrange(len(text) + 1)))
    piece = text[a : min(b, a + 300)]
    at = random.randrange(len(text) + 1)
    return text[:at] + piece * random.choice([1, 1, 2, 50]) + text[at:]


def _line(text: str, random: random.Random) -> str:
    """Exchange two lines, remove one, or repeat one."""
    lines = text.splitlines(keepends=True) or [""]
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(3):
        case 0:
            lines[a], lines[b] = lines[b], lines[a]
        case 1:
            lines.insert(b, lines[a])
        case _:
            del lines[a]
    return "".join(lines)


def _character(text: str, random: random.Random) -> str:
    """Replace, insert or remove characters."""
    at = random.randrange(len(text) + 1)
    new = random.choice(CHARACTERS) * random.choice([0, 1, 1, 1, 2, 400])
    return text[:at] + new + text[at + random.choice([0, 1, 1]) :]


def _cut(text: str, random: random.Random) -> str:
    """Cut off the end or the beginning."""
    at = random.randrange(len(text) + 1)
    return text[:at] if random.random() < 0.7 else text[at:]


CHANGES = (_token, _token, _token, _gone, _twice, _line, _character, _character, _cut)
