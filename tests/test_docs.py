"""What the README and the guides show is true: their code runs, their commands exist, their links lead somewhere."""

import ast
import doctest
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from typer.testing import CliRunner

import flashir
from flashir import testing as flashir_testing
from flashir.cli.doctor import State, examine_plugins
from flashir.machine.targets import target_names
from flashir.models.parameters import unit
from flashir.ops import OPS, opdef
from flashir.plugins import BACKENDS, FRONTENDS, IMPORTERS, TARGETS
from flashir.plugins import OPS as OPS_GROUP
from tests.plugins.support import forget, install
from tests.test_architecture import COMPILER, LAYERS, layer_of

__all__ = ["install"]

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("guide", ["add-an-op", "write-a-pass", "plug-ins", "generate", "command-line"])
def test_the_code_of_a_guide_runs(guide):
    before = set(OPS)
    try:
        for code in blocks((ROOT / f"docs/guides/{guide}.md").read_text(), "python"):
            exec(compile(code, guide, "exec"), {})
    finally:
        for name in set(OPS) - before:
            del OPS[name]


def test_an_op_is_found_by_its_file_alone(tmp_path):
    """The file of the guide, put where the guide says, in a copy of the package."""
    guide = (ROOT / "docs/guides/add-an-op.md").read_text()
    (place,) = re.findall(r"Save this as `(flashir/ops/\S+\.py)`", guide)
    shutil.copytree(ROOT / "flashir", tmp_path / "flashir")
    (tmp_path / place).write_text(blocks(guide, "python")[0])
    code = """
import flashir
graph = flashir.loads("model @m(%x: f32[T]) { %y = softplus(%x) return %y }")
print(*flashir.interpret(graph, {}, [0.0]), *flashir.compile(graph)([0.0]))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    (reference, compiled) = (float(number.strip("[]")) for number in ran.stdout.split())
    assert reference == pytest.approx(math.log(2)) and compiled == pytest.approx(math.log(2)), ran.stderr


def test_a_pass_made_as_the_guide_says_has_the_effect_of_its_file(tmp_path):
    """The file and the line of the guide, in a copy of the package."""
    guide = (ROOT / "docs/guides/write-a-pass.md").read_text()
    (place,) = re.findall(r"Save this as `(flashir/transforms/\S+\.py)`", guide)
    (code,), (effect,) = blocks(guide, "python"), blocks(guide, "text")
    shutil.copytree(ROOT / "flashir", tmp_path / "flashir", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / place).write_text(code)
    registry = tmp_path / "flashir/transforms/registry.py"
    imported = "from flashir.transforms.double_negation import DropDoubleNegation"
    lines = registry.read_text().replace("    for kind in (\n", "    for kind in (\n        DropDoubleNegation,\n")
    registry.write_text(lines.replace("from flashir.transforms.hoist", f"{imported}\nfrom flashir.transforms.hoist"))
    script = "from tests.filecheck.test_filecheck import output; print(output(open(0).read()))"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, input=effect, env=env, capture_output=True, text=True
    )
    checks = re.findall(r"// CHECK(?:-NEXT)?: (.*)", effect)
    assert [line.strip() for line in ran.stdout.splitlines()][: len(checks)] == checks, ran.stderr


@pytest.mark.slow
def test_a_package_made_as_the_guides_say_brings_all_that_its_entry_points_name(install, bare_folder):
    names = ("add-an-op", "add-a-backend", "plug-ins")
    op, own_backend, own_package = ((ROOT / f"docs/guides/{name}.md").read_text() for name in names)
    folder = install("my_package", "")
    (folder / "my_package.py").unlink()
    package = folder / "my_package"
    (package / "targets").mkdir(parents=True)
    (package / "__init__.py").write_text("from pathlib import Path\nTARGETS = Path(__file__).parent / 'targets'\n")
    (package / "softplus.py").write_text(blocks(op, "python")[0])
    (package / "numpy_backend.py").write_text(blocks(own_backend, "python")[0])
    record = blocks(own_backend, "toml")[1]
    (package / "numpy-cpu.toml").write_text(record)
    (package / "targets" / "onnx-board.toml").write_text(record.replace("numpy:cpu", "onnx:board"))
    places = re.findall(r"Save this as `my_package/(\w+\.py)`", own_package)
    for place, code in zip(places, blocks(own_package, "python"), strict=True):
        (package / place).write_text(code)
    groups = tomllib.loads(blocks(own_package, "toml")[0])["project"]["entry-points"]
    entries = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in own.items()) for group, own in groups.items()]
    (folder / "my_package-1.0.dist-info" / "entry_points.txt").write_text("\n".join(entries))
    forget()
    assert set(groups) == {OPS_GROUP, BACKENDS, TARGETS, FRONTENDS, IMPORTERS}
    assert {"numpy:cpu", "onnx:board"} <= {*target_names()} and opdef("softplus").doc
    settled = flashir.plan(flashir.model("flash-features"), chunk=64).graph
    np.savez("layer.npz", model=flashir.dumps(settled), **flashir.init(settled))
    for code in blocks(own_package, "console"):
        for command, output in outputs(code):
            check_command(command, output)
    assert not [finding for finding in examine_plugins() if finding.state is State.BROKEN]
    Path("layer.npz").write_bytes(b"x")
    with pytest.raises(flashir.FlashirError, match=r"this is no \.npz file with a model"):
        flashir.convert("layer.npz")


@pytest.mark.slow
def test_a_backend_made_as_the_guide_says_runs_and_conforms(install, bare_folder):
    guide = (ROOT / "docs/guides/add-a-backend.md").read_text()
    module, entry, record = blocks(guide, "python")[0], *blocks(guide, "toml")[:2]
    assert 'numpy = "numpy_backend:NumpyBackend"' in entry
    folder = install("numpy_backend", module, backends="numpy_backend:NumpyBackend")
    about = folder / "numpy_backend-1.0.dist-info" / "entry_points.txt"
    about.write_text(about.read_text().replace("numpy_backend =", "numpy ="))
    (folder / "numpy-cpu.toml").write_text(record)
    forget()
    for code in blocks(guide, "console"):
        for command, output in outputs(code):
            check_command(command, output)
    some = [case for case in flashir_testing.cases("numpy:cpu") if "relu" in str(case) or "causal" in str(case)]
    assert len(some) > 1
    for case in some:
        case.check()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flashir.export(flashir.model("flash", size="tiny", chunk=16), "out/", decode=True)
    for code in blocks(README, "python"):
        exec(compile(code, "README.md", "exec"), {})


@pytest.mark.slow
def test_two_libraries_suffice_to_drive_an_exported_decoder(tmp_path):
    """The loop of the README, in a process that has nothing else, gives the tokens of the model itself."""
    (code,) = (code for code in blocks(README, "python") if "position_ids" in code)
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
        assert verb in names | {"compiles", "picks"}, verb


MODE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ROUNDING = re.compile(r"\d\.\de-\d\d")
"""Errors of rounding, such as 3.2e-07: the only numbers in outputs that differ from machine to machine."""


class Checker(doctest.OutputChecker):
    """Compares outputs; `...` stands for anything."""

    def check_output(self, want, got, optionflags):
        want, got = (ROUNDING.sub("ROUNDING", text) for text in (want, got))
        return super().check_output(want, got, optionflags)


def outputs(console):
    """The commands of a console block, each with the output that it shows."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def check_command(command, wanted):
    """Runs a command of flashir in this process. Its prose may be broken elsewhere, its exit code is 0."""
    from flashir.cli.app import app

    program, *arguments = command.split()
    assert program == "flashir"
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, f"{command}\n{ran.output}"
    assert Checker().check_output(wanted, ran.stdout, MODE), f"$ {command}\n{ran.stdout}"


def check_session(code, scope, name):
    """Runs the lines of a python session and compares what it prints."""
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=MODE)
    session = doctest.DocTestParser().get_doctest(code, scope, name, None, None)
    said = []
    runner.run(session, out=said.append, clear_globs=False)
    scope.update(session.globs)
    assert not runner.failures, "".join(said)


@pytest.fixture
def bare_folder(tmp_path, monkeypatch):
    """An empty folder to run commands in, without a calibration of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.mark.slow
def test_the_walk_through_runs_and_prints_what_it_shows(bare_folder):
    page = (ROOT / "docs/how-it-works.md").read_text()
    (bare_folder / "small.fir").write_text(blocks(page, "text")[0])
    scope = {}
    for language, code in re.findall(r"```(console|pycon)\n(.*?)```", page, flags=re.DOTALL):
        if language == "pycon":
            check_session(code, scope, "how-it-works.md")
        else:
            for command, output in outputs(code):
                check_command(command, output)


def test_code_that_the_walk_through_quotes_stands_in_the_repository():
    (code,) = blocks((ROOT / "docs/how-it-works.md").read_text(), "python")
    assert code in (ROOT / "backends/flashir_onnx/emitters.py").read_text()


@pytest.mark.parametrize("verb", ["export", "plan"])
def test_the_readme_shows_what_a_command_prints(bare_folder, verb):
    shown = [each for block in blocks(README, "console") for each in outputs(block)]
    ((command, output),) = (each for each in shown if each[0].startswith(f"flashir {verb} "))
    check_command(command, output)


def test_an_output_that_lies_is_caught():
    with pytest.raises(AssertionError):
        check_command("flashir new flash --size tiny", "model @other\n...")
    with pytest.raises(AssertionError):
        check_session(">>> 1 + 1\n3\n", {}, "a lie")


PICTURE = ROOT / "docs" / "architecture.md"


def test_the_picture_of_the_architecture_is_drawn_from_the_imports() -> None:
    """Where this fails, put the lines wanted into the mermaid block of docs/architecture.md."""
    arrows = nx.DiGraph()
    arrows.add_nodes_from(LAYERS)
    for source in COMPILER:
        above = layer_of(source.module)
        for each in source.imports:
            below = layer_of(each.module) if each.module.split(".")[0] == "flashir" else ""
            if above in LAYERS and below not in ("", above):
                arrows.add_edge(above, below)
    shown = nx.transitive_reduction(arrows)
    wanted = [f"    {above} --> {below}" for above in LAYERS for below in sorted(shown[above], key=LAYERS.index)]
    drawn = re.findall(r"^    \w+ --> \w+$", PICTURE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert drawn == wanted, "\n".join(wanted)


def test_the_architecture_page_describes_every_layer() -> None:
    page = PICTURE.read_text(encoding="utf-8")
    assert not [name for name in LAYERS if not re.search(rf"^\*\*.*`{name}(/|\.py)`", page, flags=re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose):
        assert link.startswith("http") or (page.parent / link).exists(), link
