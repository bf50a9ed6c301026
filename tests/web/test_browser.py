"""The page in headless Chromium writes the tokens that flashir writes, can be stopped, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import flashir
from flashir.cli.web_page import PAGE
from flashir.generation.generate import restored
from flashir.generation.sampling import Sampling
from flashir.train.data import Tokenizer
from flashir.train.data.spelling import Spelling
from flashir.train.data.text import documents
from tests.cli.conftest import Cli

HERE = Path(__file__).parent
RUNTIME = HERE / "node_modules/onnxruntime-web/dist"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PROMPT = "It was the best of times,\nit was the wörst of times"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="onnxruntime-web is not installed: npm ci --prefix tests/web"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and where it is served."""
    folder = tmp_path_factory.mktemp("served")
    with ThreadingHTTPServer(("localhost", 0), partial(Quiet, directory=folder)) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield folder, f"http://localhost:{found.server_port}"
        found.shutdown()


def drive(url: str, *questions: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page shows after each question; without any, when it is loaded."""
    asked = [{name: str(value) for name, value in each.items()} for each in questions]  # seeds are no numbers of JSON
    command = ["node", HERE / "drive.mjs", url, json.dumps(asked)]
    environment = {**os.environ, "CHROMIUM": str(CHROMIUM)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["told"] == []
    found: list[dict[str, Any]] = made["results"]
    return found


def lively(model: flashir.ir.Graph) -> dict[str, Any]:
    """Parameters of which the likeliest token is not always the same."""
    made = flashir.init(model, seed=1)
    return {name: 40 * array if "layers" in name and name.endswith("weight") else array for name, array in made.items()}


def exported(folder: Path, model: flashir.ir.Graph, tokenizer: Tokenizer, *args: object) -> Path:
    tokenizer.save(folder.with_name(f"{folder.name}.json"))
    checkpoint = folder.with_name(f"{folder.name}-checkpoint")
    flashir.save_checkpoint(model, lively(model), checkpoint, tokenizer=folder.with_name(f"{folder.name}.json"))
    Cli().ok("export", checkpoint, "--web", "--web-runtime", RUNTIME, "-o", folder, *args)
    return folder


@pytest.fixture(scope="module")
def flash(server: tuple[Path, str]) -> Path:
    model = flashir.model("flash", size="tiny", vocab=256, chunk=16, cumsum="scan")
    return exported(server[0] / "flash", model, Tokenizer.bytes())


@pytest.fixture(scope="module")
def transformer(server: tuple[Path, str]) -> Path:
    text = server[0] / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 9, encoding="utf-8")
    model = flashir.model("transformer++", size="tiny", vocab=288, causal=True)
    return exported(server[0] / "transformer", model, Tokenizer.trained(documents([text]), 280), "--max-len", 64)


QUESTIONS = [
    {"temperature": 0},
    {"temperature": 1, "seed": 7},
    {"temperature": 0.6, "top_k": 40, "top_p": 0.9, "seed": 2**64 - 1},
]


@pytest.mark.parametrize("name", ["flash", "transformer"])
def test_tokens_are_those_of_flashir(name: str, server: tuple[Path, str], request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    tokenizer = Tokenizer.bytes() if name == "flash" else Tokenizer.read(folder / "tokenizer.json")
    questions = ({"prompt": PROMPT, "tokens": 60, "top_k": "", "top_p": 1, **each} for each in QUESTIONS)
    seen = drive(f"{server[1]}/{name}/", *questions)
    decoder, prompt = restored(folder), tokenizer.encode(PROMPT).tolist()
    written = set()
    for each, shown in zip(QUESTIONS, seen, strict=True):
        sampling = Sampling(each["temperature"], each.get("top_k"), each.get("top_p", 1.0))
        made = flashir.generate(decoder, [prompt], tokens=60, sampling=sampling, seed=each.get("seed", 0))
        ids = [int(row[0]) for row in made]
        assert shown["ids"] == ids
        assert shown["given"] == PROMPT
        spelling = Spelling(tokenizer)
        assert shown["made"] == "".join(map(spelling.add, ids)) + spelling.end()
        assert shown["problem"] == ""
        written.add(tuple(ids))
        if name == "flash":
            assert shown["status"] == "done" and len(ids) == 60 and shown["pace"].startswith("60 tokens, ")
        else:
            assert shown["status"] == "the model can hold 64 tokens" and len(ids) == 65 - len(prompt)
    assert len(written) == len(QUESTIONS) and all(len(set(ids)) > 9 for ids in written), written


def test_it_stops_and_goes_on(flash: Path, server: tuple[Path, str]) -> None:
    ask = {"prompt": "a", "temperature": 1, "seed": 3}
    stopped, empty, again = drive(
        f"{server[1]}/flash/", {**ask, "tokens": 10**6, "stop_after": 20}, {"prompt": ""}, {**ask, "tokens": 20}
    )
    assert {shown["busy"] for shown in (stopped, empty, again)} == {"false"}  # and true while it writes, see drive.mjs
    assert stopped["status"] == "stopped" and 20 <= len(stopped["ids"]) < 10**5
    assert empty["problem"] == "the prompt is empty; give it one token at least"
    assert again["ids"] == stopped["ids"][:20] and again["status"] == "done" and again["problem"] == ""


def test_a_prompt_that_is_too_long_is_refused(transformer: Path, server: tuple[Path, str]) -> None:
    (shown,) = drive(f"{server[1]}/transformer/", {"prompt": "x " * 99})
    assert shown["problem"] == "the prompt has 198 tokens, this model can hold 64"


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "missing"])
def test_files_that_are_not_those_of_the_page_are_named(damage: str, flash: Path, server: tuple[Path, str]) -> None:
    folder = shutil.copytree(flash, server[0] / damage)
    (data,) = folder.glob("model-*.data")
    content = bytearray(data.read_bytes())
    content[1000] ^= damage == "flipped"
    data.write_bytes({"cut": content[:-1], "longer": content + b"."}.get(damage, content))
    if damage == "missing":
        data.unlink()
    (shown,) = drive(f"{server[1]}/{damage}/")
    wanted = "404" if damage == "missing" else "is not the file that this page was written for"
    assert data.name in shown["problem"] and wanted in shown["problem"]


def test_a_runtime_that_is_another_is_not_run(flash: Path, server: tuple[Path, str]) -> None:
    folder = shutil.copytree(flash, server[0] / "strange")
    script = folder / "ort/ort.wasm.bundle.min.mjs"
    script.write_text(script.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    (shown,) = drive(f"{server[1]}/strange/")
    assert "ort.wasm.bundle.min.mjs cannot be loaded" in shown["problem"]


def test_a_page_on_disk_says_how_to_serve_it(flash: Path) -> None:
    (shown,) = drive((flash / PAGE).as_uri())
    assert "python -m http.server" in shown["problem"]
