"""Every `.fir` file below this folder shows, in its own CHECK lines, what becomes of it.

The first line says what runs: `// RUN: passes=lower,canonicalise` prints the graph after those passes, and
`// RUN: types` with the type of every result; `// RUN: invalid` wants an error, and checks its message instead.
The words go together, in the order `invalid types passes=..`.
"""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser, pattern_for_opts

from flashir import FlashirError, dumps, loads
from flashir.ir.verify import verify
from flashir.transforms import PASSES, Pipeline, parse_pipeline

HERE = Path(__file__).parent
FILES = sorted(HERE.rglob("*.fir"))
RUN = re.compile(r"// RUN:(?P<invalid> invalid)?(?P<types> types)?(?: passes=(?P<passes>.*))?\n")


def output(text: str) -> str:
    """What the RUN line of a file makes of it."""
    run = RUN.match(text)
    assert run is not None, "the first line must be a RUN line"
    try:
        graph = loads(text)
        verify(graph)
        made = Pipeline(parse_pipeline(run["passes"] or "")).run(graph)
    except FlashirError as error:
        if not run["invalid"]:
            raise
        return f"{error.message}\n"
    assert not run["invalid"], "this was to be refused"
    return dumps(made, types=bool(run["types"]))


def matches(checks: str, made: str, capsys: pytest.CaptureFixture[str]) -> bool:
    options = Options("checks")
    matcher = Matcher(options, FInput("output", made), Parser(options, StringIO(checks), *pattern_for_opts(options)))
    return matcher.run() == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HERE)))
def test_it_becomes_what_it_says(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = file.read_text(encoding="utf-8")
    assert matches(text, output(text), capsys), capsys.readouterr()


def test_every_pass_has_a_file() -> None:
    shown = "".join(file.read_text(encoding="utf-8").split("\n")[0] for file in FILES)
    assert not [name for name in PASSES if not re.search(rf"[=,]{name}\b", shown)]


def test_a_file_that_lies_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    made = "a\nb\n"
    assert matches("// CHECK: a\n// CHECK-NEXT: b\n", made, capsys)
    assert not matches("// CHECK: a\n// CHECK-NEXT: c\n", made, capsys)
    assert not matches("// CHECK-NOT: b\n", made, capsys)
