"""The page picks the tokens that flashir picks, and reads and writes text as its tokenizer does: Node, no browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashir.cli import web_page
from flashir.generation.sampling import Sampling, SplitMix64
from flashir.train.data.text import documents
from flashir.train.data.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
HERE = Path(__file__).parent
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
SEEDS = (0, 1, 2**53 + 1, 2**64 - 1)
TEXTS = (
    "",
    "Call me Ishmael. Some years ago -- never mind how long precisely --",
    "We've it's I'm you'll they'd don't 'tis WE'VE",
    "a  b   c\n\n  d\t\te \r\n f   ",
    "1234 3.14 ½ Ⅷ x² 四",
    "naïve café 日本語 Привет عربى 한국어 🙂👩‍👩‍👧 e\u0301",
    "\u0085x\u00a0y\u2003z\ufeffw\u180ev\u200bu\u3000 \u0085\u0085",
    "<mask> [MASK] <|endoftext|>",
    "\ufeff\x00\x01\x7f\u00ad",
    "once, twice and thrice",
    "_under_score--dash...!?()[]{}#$%&*+/<=>@^`|~\\\"'",
)


def node(**cases: Any) -> dict[str, Any]:
    command = ["node", HERE / "units.mjs", web_page.HERE]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def test_numbers_drawn_are_the_same() -> None:
    wanted = [[random.uniform() for _ in range(100)] for random in map(SplitMix64, SEEDS)]
    assert node(draws=[{"seed": str(seed), "count": 100} for seed in SEEDS])["draws"] == wanted


@pytest.mark.slow
def test_tokens_picked_are_the_same() -> None:
    random = np.random.default_rng(0)
    cases, wanted = [], []
    for number, (temperature, top_k, top_p) in enumerate(
        (t, k, p) for t in (0.0, 1e-3, 0.7, 1.0, 30.0) for k in (None, 1, 7, 500) for p in (1e-9, 0.5, 0.95, 1.0)
    ):
        rows = (4 * random.standard_normal((25, 300))).astype(np.float32)
        rows[::5] = np.round(rows[::5])  # many are equal
        rows[1, 5:] = -np.inf
        seed = SEEDS[number % len(SEEDS)] if number % 3 else int(random.integers(2**63))
        drawn = SplitMix64(seed)
        wanted.append([int(Sampling(temperature, top_k, top_p).pick(row[None], drawn)[0]) for row in rows])
        sampling = {"temperature": temperature, "topK": top_k, "topP": top_p}
        listed = [[each if np.isfinite(each) else None for each in row.tolist()] for row in rows]
        cases.append({"rows": listed, "sampling": sampling, "seed": str(seed)})
    assert node(picks=cases)["picks"] == wanted


def pair_encoding(tmp_path: Path) -> Tokenizer:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(TEXTS[:6]) + "the cat sat on the mat, and the hat is the cats. " * 20, encoding="utf-8")
    return Tokenizer.trained(documents([text]), 400)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "bpe, written otherwise"])
def test_text_is_read_and_written_alike(kind: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.bytes() if kind == "bytes" else pair_encoding(tmp_path)
    file = json.loads(tokenizer.text)
    if kind == "bpe, written otherwise":
        file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]
        file["added_tokens"] = [{"id": 401, "content": "<a ü ☃>", "special": True, **dict.fromkeys(FLAGS, False)}]
        file["model"]["ignore_merges"] = True
        assert file["model"]["vocab"].setdefault("Ġthrice", 400) == 400
        tokenizer = Tokenizer(json.dumps(file))
    random = np.random.default_rng(1)
    ids = [random.integers(0, tokenizer.vocab, 50).tolist() for _ in range(40)]
    ids += [[], [tokenizer.mask], [tokenizer.vocab - 1], *(tokenizer.encode(text).tolist() for text in TEXTS)]
    made = node(tokenizer=file, texts=TEXTS, ids=ids)
    assert made["encoded"] == [tokenizer.encode(text).tolist() for text in TEXTS]
    assert made["decoded"] == [tokenizer.decode(each) for each in ids]
    if kind != "bytes":
        assert any(len(each) < len(text.encode()) for each, text in zip(made["encoded"], TEXTS, strict=True))


def test_a_text_ends_at_the_end_of_documents() -> None:
    file = json.loads(Tokenizer.bytes("<end>").text)
    tokens = [*b"ab", 256]
    for ends, last in (([256], {"ended": True}), ([], {"id": 256, "text": "<end>"})):
        made = node(tokenizer=file, texts=[], ids=[], written=tokens, ends=ends)["written"]
        assert made == [{"id": 97, "text": "a"}, {"id": 98, "text": "b"}, last]
