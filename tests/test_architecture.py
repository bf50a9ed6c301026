"""Who may import whom, how long a file may be, and what is public: the house, kept by a test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"torch", "jax", "jaxlib", "onnx", "onnxruntime", "openvino", "onnx_ir", "tensorflow"}
LONGEST = 400
SECONDS_TO_IMPORT = 0.3


@dataclass(frozen=True)
class Import:
    """One import: the module that is asked for, the names taken from it, and where."""

    module: str
    names: tuple[str, ...]
    line: int
    lazy: bool
    typing: bool


@dataclass(frozen=True)
class Source:
    """One python file: its module name and its syntax."""

    path: Path
    module: str

    @cached_property
    def tree(self) -> ast.Module:
        """Parsed when it is first asked for, so that a worker without these tests parses nothing."""
        return ast.parse(read(self))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of the file."""
        return tuple(_imports(self.tree, lazy=False, typing=False))


def _imports(node: ast.AST, *, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, (), child.lineno, lazy, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield Import(child.module or "", tuple(a.name for a in child.names), child.lineno, lazy, typing)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from _imports(child, lazy=lazy or inside, typing=typing or checking)


def sources(*folders: str) -> list[Source]:
    found = []
    for folder in folders:
        base = ROOT if folder == "flashir" else ROOT / folder
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
            found.append(Source(path, module))
    return found


def read(source: Source) -> str:
    return source.path.read_text(encoding="utf-8")


COMPILER = sources("flashir")
PLUGINS = sources("backends", "frontends")
PLUGIN_NAMES = {source.module.split(".")[0] for source in PLUGINS}


def each_source(found: list[Source]) -> Callable[[Callable[[Source], None]], Callable[[], None]]:
    """One test over all the files, which names every fault at once."""

    def decorate(test: Callable[[Source], None]) -> Callable[[], None]:
        def test_of_all() -> None:
            faults = []
            for source in found:
                try:
                    test(source)
                except AssertionError as error:
                    faults.append(f"{source.module}: {error}")
            assert not faults, "\n".join(faults)

        test_of_all.__doc__ = test.__doc__
        return test_of_all

    return decorate


def told(source: Source, faults: list[Import]) -> str:
    return ", ".join(f"{source.path.relative_to(ROOT)}:{each.line} imports {each.module}" for each in faults)


@each_source(COMPILER)
def test_the_compiler_imports_a_framework_lazily_or_not_at_all(source: Source) -> None:
    faults = [each for each in source.imports if each.module.split(".")[0] in FRAMEWORKS and not each.lazy]
    assert not faults, told(source, faults)


@pytest.mark.parametrize("layer", ["errors", "ir", "ops", "transforms", "backends", "cost", "reference", "models"])
def test_the_core_imports_no_framework_at_all(layer: str) -> None:
    for source in COMPILER:
        if layer_of(source.module) == layer:
            faults = [each for each in source.imports if each.module.split(".")[0] in FRAMEWORKS]
            assert not faults, told(source, faults)


@each_source(COMPILER)
def test_the_compiler_knows_plug_ins_by_their_entry_points_alone(source: Source) -> None:
    names = {*PLUGIN_NAMES, "backends", "frontends"}
    faults = [each for each in source.imports if each.module.split(".")[0] in names]
    assert not faults, told(source, faults)


DECLARED: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "flashir"
]["plug-ins"]
"""The plug-ins that build on another one, one way: see docs/decisions/074-openvino.md."""


@each_source(PLUGINS)
def test_plug_ins_import_no_others_but_those_that_they_declare(source: Source) -> None:
    own = source.module.split(".")[0]
    others = PLUGIN_NAMES - {own, *DECLARED.get(own, ())}
    faults = [each for each in source.imports if each.module.split(".")[0] in others]
    assert not faults, told(source, faults)


LAYERS = [
    *("errors", "version", "interrupts", "plugins", "arguments", "files"),
    *("ir", "ops", "transforms", "backends", "cost", "machine", "reference", "models", "importing"),
    *("planning", "execution", "generation", "exporting", "autotune", "train", "bench", "compare"),
    *("testing", "cli", "experiments"),
]
"""The folders and modules of flashir, lowest first. A layer imports itself and the layers before it."""

USERS = ("experiments",)
"""Layers that may use the public face, `import flashir`, as anyone does."""

MOST_MODULES = 6


def layer_of(module: str) -> str:
    """`ops` for `flashir.ops.layers.flash`; "" for flashir itself, the public face."""
    return [*module.split("."), ""][1]


def test_every_folder_has_its_layer() -> None:
    found = {layer_of(source.module) for source in COMPILER} - {"", "__main__"}
    assert found == set(LAYERS)
    loose = [path.name for path in (ROOT / "flashir").glob("*.py") if not path.name.startswith("__")]
    assert len(loose) <= MOST_MODULES


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_no_layer_above_it(layer: str) -> None:
    below = {*LAYERS[: LAYERS.index(layer) + 1], *([""] if layer in USERS else [])}
    for source in COMPILER:
        if layer_of(source.module) == layer:
            ours = [each for each in source.imports if each.module.split(".")[0] == "flashir"]
            faults = [each for each in ours if layer_of(each.module) not in below]
            assert not faults, told(source, faults)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports in functions and those for types count too."""
    modules = {source.module for source in [*COMPILER, *PLUGINS]}
    graph = nx.DiGraph()
    for source in [*COMPILER, *PLUGINS]:
        for each in source.imports:
            inside = [f"{each.module}.{name}" for name in each.names if f"{each.module}.{name}" in modules]
            graph.add_edges_from((source.module, target) for target in inside or [each.module])
    circles = [sorted(each) for each in nx.strongly_connected_components(graph) if len(each) > 1]
    assert circles == []


PARSERS = re.compile(
    r"\b(json\.loads?\(|tomllib\b|msgspec\.(json|toml|yaml|msgpack)\.decode\b|np\.(load|loadtxt|fromfile|genfromtxt)\("
    r"|pickle\.loads?\(|safe_open\(|load_file\(|torch\.(load|export\.load|hub|jit\.load)\(|load_pt2\(|onnx\.load\w*\("
    r"|\.deserialize\(|Tokenizer\.from_(str|file|buffer)\b|yaml\.|ast\.literal_eval\()"
)
"""What reads a file that somebody else may have written."""

READERS = {
    "flashir.files.foreign": "the one way in",
    "flashir.bench.process": "lines of a process that it started",
    "flashir.bench.worker": "lines of the process that started it",
    "flashir.bench.published": "tables that are shipped",
    "flashir.cli.web_page": "a tokenizer that was read already",
    "flashir.cli.web_page.readable": "a tokenizer that was read already",
    "flashir.cli.tokens": "guarded",
    "flashir.importing.read_pickle": "guarded, tensors alone",
    "flashir.machine.profile": "whatever is wrong with a profile is a warning, and it is left out",
    "flashir.files.kinds": "names one in a message",
    "flashir.train.data.guarded": "guarded",
    "flashir.train.data.tokenizer": "what the library says of a tokenizer that it just made",
    "flashir.models.weight_file": "guarded",
    "flashir_jax.export": "guarded",
    "flashir_onnx.experiments.consumers": "files that it wrote",
    "flashir_onnx.experiments.decode": "files that it wrote",
    "flashir_onnx.seal": "guarded",
    "flashir_onnx.stored": "a file whose digest and places were verified",
    "flashir_onnx.verify": "a file that was written or verified just now",
    "flashir_torch.archive": "guarded, and without pickles",
    "flashir_torch.stored": "guarded, after the archive was looked through",
}
"""The modules that call a parser, and why they may."""


def test_foreign_files_have_one_way_in() -> None:
    """Elsewhere, `flashir.files.foreign` reads: bounded, and with whatever a parser raises as one error."""
    calls = {source.module: PARSERS.findall(read(source)) for source in [*COMPILER, *PLUGINS]}
    found = {module for module, each in calls.items() if each}
    assert found - READERS.keys() == set()
    assert READERS.keys() - found == set()
    for source in [*COMPILER, *PLUGINS]:
        if READERS.get(source.module, "").startswith("guarded"):
            assert any(each.module == "flashir.files.foreign" for each in source.imports), source.module


def test_ops_are_given_a_builder_and_make_none() -> None:
    faults = [source.module for source in COMPILER if layer_of(source.module) == "ops" and "Builder(" in read(source)]
    assert faults == []


@each_source([*COMPILER, *PLUGINS])
def test_nothing_private_crosses_a_module(source: Source) -> None:
    faults = [
        each
        for each in source.imports
        for part in (*each.names, *each.module.split("."))
        if part.startswith("_") and not part.endswith("__")
        if each.module.split(".")[0] in {"flashir", *PLUGIN_NAMES}
    ]
    assert not faults, told(source, faults)


@each_source([*COMPILER, *PLUGINS])
def test_a_file_holds_one_idea(source: Source) -> None:
    assert len(read(source).splitlines()) <= LONGEST


@each_source([*COMPILER, *PLUGINS])
def test_what_is_public_says_what_it_is(source: Source) -> None:
    if read(source).strip():
        assert ast.get_docstring(source.tree), "the module needs a docstring"
    missing = [name for name, node in public(source.tree) if not ast.get_docstring(node)]
    assert not missing


def public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions and classes, and the methods of public classes, whose names do not start with _."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{child.name}.")


def test_names_of_plug_ins_shadow_no_framework() -> None:
    for folder in ("backends", "frontends"):
        assert not (ROOT / folder / "__init__.py").exists()
        assert not {path.name for path in (ROOT / folder).iterdir()} & FRAMEWORKS


def test_tests_shadow_nothing_either() -> None:
    folders = {path.name for path in (ROOT / "tests").rglob("*") if path.is_dir()}
    assert not [path for path in (ROOT / "tests").rglob("__init__.py") if path.parent.name in FRAMEWORKS]
    assert "flashir" not in folders


def in_a_fresh_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_importing_flashir_loads_nothing_it_does_not_need() -> None:
    loaded = in_a_fresh_python("import sys, flashir; print(*sys.modules)").split()
    ours = {name for name in loaded if name.split(".")[0] == "flashir"}
    assert ours == {"flashir", "flashir.version"}
    heavy = {*FRAMEWORKS, *PLUGIN_NAMES, "numpy", "networkx", "lark", "typer", "rich", "msgspec", "safetensors"}
    assert not heavy & {name.split(".")[0] for name in loaded}


def test_reading_and_lowering_a_model_loads_no_framework() -> None:
    code = """
import sys, flashir
from flashir.backends.lowering import Lowering
text = "model @m(%x: f32[T]) { %y = silu(%x) return %y }"
flashir.interpret(Lowering("none").run(flashir.loads(text)), {}, [1.0])
print(*sys.modules)
"""
    assert not FRAMEWORKS & {name.split(".")[0] for name in in_a_fresh_python(code).split()}


def test_flashir_is_imported_in_no_time() -> None:
    """The best of three, for the machine may be busy."""
    code = "import time; t = time.perf_counter(); import flashir; print(time.perf_counter() - t)"
    assert min(float(in_a_fresh_python(code)) for _ in range(3)) < SECONDS_TO_IMPORT


def test_every_public_name_can_be_imported() -> None:
    import flashir

    for name in flashir.__all__:
        assert getattr(flashir, name) is not None
    assert set(flashir.__all__) <= set(dir(flashir))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        flashir.nothing  # noqa: B018


def test_the_tests_of_this_file_can_fail() -> None:
    tree = ast.parse(
        "import torch\nfrom flashir.ir import _x\n"
        "def f():\n    import jax\n"
        "if TYPE_CHECKING:\n    import onnx\n"
        "class A:\n    def m(self): ...\n"
    )
    found = {each.module: each for each in _imports(tree, lazy=False, typing=False)}
    assert (found["torch"].lazy, found["jax"].lazy) == (False, True)
    assert found["onnx"].typing
    assert found["flashir.ir"].names == ("_x",)
    assert [name for name, _ in public(tree)] == ["f", "A", "A.m"]
