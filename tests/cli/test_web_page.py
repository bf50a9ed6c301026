"""The page of an export is one well-formed file that names what it needs, and says before any work what it cannot do.

What it does in a browser is tested in tests/web.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import flashir
from flashir.cli import source
from flashir.cli.web_page import HERE, WORKER, WebPage, readable, runtime
from flashir.errors import InputError
from flashir.train.data import Tokenizer
from tests.cli.conftest import TINY, Cli
from tests.cli.test_page import HOSTILE, checked

WEB = Path(__file__).parent.parent / "web"
BYTES = (*TINY, "-s", "vocab=256")


@pytest.fixture
def ort(tmp_path: Path) -> Path:
    """A folder that could be onnxruntime-web."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in runtime.FILES:
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def data(text: str) -> dict[str, object]:
    made: dict[str, object] = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    return made


def test_a_page_is_whole_and_loads_its_runtime_alone(cli: Cli, tmp_path: Path) -> None:
    made = cli.json("export", *BYTES, "--web", "-o", tmp_path / "out")
    files = {Path(name).name: size for name, size in made["files"].items()}
    assert {"index.html", "model.onnx", "prefill.onnx", "step.onnx"} < files.keys()
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert files["index.html"] == len(text.encode())
    seen = checked(text).seen
    assert not [attrs for _, attrs in seen if {"src", "href"} & set(attrs)]
    about = data(text)
    place = about["runtime"]["place"]  # type: ignore[index]
    assert place == f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{runtime.VERSION}/dist/"
    assert set(re.findall(r"https?://[^/\s\"`]+", text)) == {"https://cdn.jsdelivr.net", "http://localhost:8000"}
    (policy,) = (attrs["content"] for tag, attrs in seen if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.endswith("connect-src 'self' https://cdn.jsdelivr.net")
    for name, file in about["files"].items():  # type: ignore[attr-defined]
        content = (tmp_path / "out" / name).read_bytes()
        assert file == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert len(about["files"]) == 3  # type: ignore[arg-type]
    assert (about["vocab"], about["limit"], about["ends"]) == (256, None, [])


def test_a_runtime_beside_the_page_needs_no_other_place(cli: Cli, tmp_path: Path, ort: Path) -> None:
    made = cli.json("export", *BYTES, "--web", "--web-runtime", ort, "-o", tmp_path / "out")
    assert {str(tmp_path / "out/ort" / name) for name in runtime.FILES} < made["files"].keys()
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "cdn" not in text
    digest = base64.b64encode(hashlib.sha384(runtime.SCRIPT.encode()).digest()).decode()
    script = {"name": runtime.SCRIPT, "integrity": f"sha384-{digest}"}
    assert data(text)["runtime"]["script"] == script  # type: ignore[index]
    assert (tmp_path / "out/ort" / runtime.BINARY).read_text(encoding="utf-8") == runtime.BINARY


def test_caches_limit_a_text(cli: Cli, tmp_path: Path) -> None:
    cli.ok("export", "transformer++", "--size", "tiny", "-s", "vocab=256", "--web", "--max-len", 32, "-o", tmp_path)
    assert data((tmp_path / "index.html").read_text(encoding="utf-8"))["limit"] == 32


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    model = flashir.model("flash", size="tiny", vocab=256, chunk=64)
    file = json.loads(Tokenizer.bytes().text)
    file["model"]["vocab"][HOSTILE] = 257
    page = WebPage(HOSTILE, Tokenizer(json.dumps(file)), None)
    page.write(tmp_path, lambda: flashir.export(model, tmp_path, decode=True, split=True), None)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    seen = checked(text).seen
    assert "img" not in {tag for tag, _ in seen}
    assert text.count("</script>") == 3
    assert data(text)["tokenizer"] == file


def test_scripts_do_not_end_the_elements_they_stand_in() -> None:
    for name in (*WORKER, "page.js"):
        script = (HERE / name).read_text(encoding="utf-8")
        assert "</" not in script
        assert "<!--" not in script


def test_what_cannot_be_is_told_before_any_work(cli: Cli, tmp_path: Path, ort: Path) -> None:
    out = tmp_path / "out"
    assert "--web too" in cli.fails("export", *BYTES, "--web-runtime", ort, "-o", out)
    assert "npm install" in cli.fails("export", *BYTES, "--web", "--web-runtime", tmp_path, "-o", out)
    assert "has no tokenizer" in cli.fails("export", *TINY, "-s", "vocab=999", "--web", "-o", out)
    assert "not causal" in cli.fails("export", *BYTES, "--task", "mlm", "--web", "-o", out)
    assert not out.exists()


def test_a_tokenizer_that_the_page_cannot_read_is_refused() -> None:
    readable.check(Tokenizer.bytes())
    file = json.loads(Tokenizer.bytes().text)
    file |= {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None}
    file["added_tokens"] = [
        {"id": 257, "content": "<s>", "special": True},
        {"id": 258, "content": "x", "special": False},
    ]
    file["model"] |= {"type": "WordPiece", "unk_token": "<unk>", "byte_fallback": True}
    with pytest.raises(InputError) as told:
        readable.check(Tokenizer(json.dumps(file)))
    assert len(told.value.problems) == 7
    spaced = json.loads(Tokenizer.bytes().text)
    spaced["pre_tokenizer"]["add_prefix_space"] = True
    with pytest.raises(InputError, match="add_prefix_space"):
        readable.check(Tokenizer(json.dumps(spaced)))


def test_the_tests_use_the_release_that_pages_load() -> None:
    wanted = json.loads((WEB / "package.json").read_text(encoding="utf-8"))["dependencies"]
    locked = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert wanted["onnxruntime-web"] == locked["node_modules/onnxruntime-web"]["version"] == runtime.VERSION
    dist = WEB / "node_modules/onnxruntime-web/dist"
    if not dist.is_dir():
        pytest.skip("onnxruntime-web is not installed: npm ci --prefix tests/web")
    found = {name: hashlib.sha384((dist / name).read_bytes()).digest() for name in runtime.FILES}
    assert {name: f"sha384-{base64.b64encode(digest).decode()}" for name, digest in found.items()} == runtime.PUBLISHED


def test_a_page_is_of_its_source() -> None:
    found = source.find("flash", ["vocab=256"], "tiny")
    page = WebPage.of(found, None)
    assert (page.title, page.tokenizer.is_bytes, page.source) == ("flash", True, None)
    assert WebPage.of(replace(found, word="/home/me/run/"), None).title == "run"
    floats = flashir.loads("model @m(%x: f32[B, T, 8]) -> f32[B, T, 8] {\n  %y = relu(%x)\n  return %y\n}")
    with pytest.raises(InputError, match="takes no tokens"):
        WebPage.of(replace(found, model=floats), None)
