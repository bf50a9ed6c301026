"""What the README and the guides show is true: their code runs, their commands exist, their links lead somewhere."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flashir
from flashir.models.parameters import unit
from flashir.ops import OPS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("guide", ["add-an-op", "write-a-pass", "generate"])
def test_the_code_of_a_guide_runs(guide):
    before = set(OPS)
    try:
        for code in blocks((ROOT / f"docs/guides/{guide}.md").read_text(), "python"):
            exec(compile(code, guide, "exec"), {})
    finally:
        for name in set(OPS) - before:
            del OPS[name]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flashir.export(flashir.model("flash", size="tiny", chunk=16), "out/", decode=True)
    for code in blocks(README, "python"):
        exec(compile(code, "README.md", "exec"), {})


def test_two_libraries_suffice_to_drive_an_exported_decoder(tmp_path):
    """The loop of the README, in a process that has nothing else, gives the tokens of the model itself."""
    (code,) = (code for code in blocks(README, "python") if "prefill" in code)
    imported = {name.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"numpy", "onnxruntime"}
    assert len(code.strip().split("\n\n")[1].splitlines()) <= 14
    model = flashir.model("flash", size="tiny", chunk=16)
    flashir.export(model, tmp_path / "out", params=unit(model), decode=True)
    ran = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, check=True
    )
    prompt = list(b"It is a truth universally")
    tokens = flashir.generate(flashir.decoder(model, params=unit(model)), [prompt], tokens=64)
    assert ran.stdout.decode() == "".join(chr(token) for (token,) in tokens)
    assert not ran.stderr


def test_the_stack_of_the_readme_is_the_same_in_text_and_in_python():
    (text,) = blocks(README, "text")
    code = next(code for code in blocks(README, "python") if "Builder" in code)
    scope = {}
    exec(compile(code.split("plan = ")[0], "README.md", "exec"), scope)
    written, built = flashir.loads(text), scope["mixture"]

    def ops(graph):
        return [(node.op, dict(node.attrs)) for node in graph.walk()]

    assert ops(written) == ops(built)


def test_the_commands_of_the_readme_exist():
    from flashir.cli.app import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    for verb in re.findall(r"flashir ([a-z]+)", README):
        assert verb in names | {"compiles"}, verb


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link
