"""The programs of docs/examples, in C++ and JavaScript, write the tokens of `flashir generate`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

import flashir
from flashir.generation.generate import restored
from flashir.models.parameters import unit
from tests.hosts.support import MODELS, ROOM, TURNS, greedy, model, prompt

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
PACKAGES = Path(__file__).parent / "node_modules"
LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
TOKENS = 24

pytestmark = pytest.mark.slow


def headers() -> Path | None:
    """The folder of the C++ headers: `$ONNXRUNTIME_INCLUDE`, or that of the package which `npm ci` installs."""
    packaged = PACKAGES.glob("com.github.asus4.onnxruntime/**/ios-arm64/**/onnxruntime_cxx_api.h")
    wanted = os.environ.get("ONNXRUNTIME_INCLUDE")
    return Path(wanted) if wanted else next((file.parent for file in packaged), None)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> list[Path | str]:
    """The program in C++, built against the library of the Python package, laid out as a release."""
    include = headers()
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("cmake or a C++ compiler is not installed")
    if include is None or LIBRARY is None:
        pytest.skip("the C++ headers of ONNX Runtime are not installed: npm ci --prefix tests/hosts --ignore-scripts")
    release, build = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("build")
    (release / "include").symlink_to(include)
    (release / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (release / "lib" / name).symlink_to(LIBRARY)
    for command in (("-S", EXAMPLES, "-B", build, f"-DCMAKE_PREFIX_PATH={release}"), ("--build", build)):
        done = run("cmake", *command)
        assert done.returncode == 0, done.stdout + done.stderr
    return [build / "decoder"]


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> list[Path | str]:
    """The program in JavaScript, beside the packages that it imports."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (PACKAGES / "onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is not installed: npm ci --prefix tests/hosts --ignore-scripts")
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "node_modules").symlink_to(PACKAGES)
    return ["node", shutil.copy(EXAMPLES / "decoder.mjs", folder)]


@pytest.fixture(params=["cpp", "javascript"])
def program(request: pytest.FixtureRequest) -> list[Path | str]:
    """The command of a program, without its arguments."""
    command: list[Path | str] = request.getfixturevalue(request.param)
    return command


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an exported model, written once."""
    root = tmp_path_factory.mktemp("exported")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            graph = model(name)
            flashir.export(graph, root / name, params=unit(graph, 1), decode=True, max_len=ROOM)
        return root / name

    return folder


def turns(*rows: list[int]) -> list[str]:
    """Rows of tokens as arguments of a program."""
    return [",".join(map(str, row)) for row in rows]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_generate_over_several_turns(
    program: list[Path | str], exported: Callable[[str], Path], name: str
) -> None:
    folder = exported(name)
    rows = turns(*(prompt(length, turn) for turn, length in enumerate(TURNS)))
    done = run(*program, folder / "decoder.onnx", TOKENS, *rows)
    assert done.returncode == 0, done.stderr
    assert [[*map(int, line.split())] for line in done.stdout.splitlines()] == greedy(restored(folder), TOKENS)


def test_a_prompt_longer_than_a_piece(program: list[Path | str], exported: Callable[[str], Path]) -> None:
    folder, text = exported("flash"), prompt(300)
    done = run(*program, folder / "decoder.onnx", 9, *turns(text))
    wanted = [int(row[0]) for row in flashir.generate(restored(folder), [text], tokens=9)]
    assert [*map(int, done.stdout.split())] == wanted, done.stderr


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1,-1"], "ids_are_0_or_more"),
        (turns([1] * (ROOM + 1)), f"positions_are_below_{ROOM}"),
        ([], "usage: "),
    ],
)
def test_what_is_refused_is_an_error_of_the_program(
    program: list[Path | str], exported: Callable[[str], Path], rows: list[str], said: str
) -> None:
    done = run(*program, exported("transformer++") / "decoder.onnx", 3, *rows)
    assert done.returncode == 1 and said in done.stderr and not done.stdout
