"""Every verb on streams that are closed, full, left by their reader, narrow, or spell ASCII alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from tests.cli.verbs import MODEL, QUICK, SLOW, Lines, Streams, calibrate_at_once
from tests.cover import GRID

VERBS = [*QUICK, *(pytest.param(verb, marks=pytest.mark.slow) for verb in SLOW)]
posix = pytest.mark.skipif(sys.platform == "win32", reason="no such files")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    folder = tmp_path_factory.mktemp("streams")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHIR_CACHE", str(folder / "cache"))
        calibrate_at_once(patch.setattr)
        made = Lines(folder)
        made.prepare()
        yield made


@pytest.fixture(autouse=True)
def _own_cache(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", str(lines.folder / "cache"))


def clean(said: str) -> str:
    assert "Traceback" not in said and "this is a bug" not in said and "Exception ignored" not in said, said
    return said


def full() -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")


def left() -> TextIO:
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", encoding="utf-8")


def closed() -> None:
    return None


OUTCOMES: dict[Callable[[], TextIO | None], tuple[int, str]] = {
    full: (2, "error: standard output: cannot write: No space left on device\nfree some space\n"),
    closed: (2, "error: standard output: it is closed\nredirect it to /dev/null to discard the output\n"),
    left: (141, ""),
}
"""The exit status and the message where the standard output is in each of these states."""

each_verb_and_stream = pytest.mark.parametrize(
    ("verb", "stream"),
    [
        pytest.param(
            verb,
            stream,
            id=f"{verb}-{stream.__name__}",
            marks=GRID if place % len(OUTCOMES) != state else () if verb in QUICK else pytest.mark.slow,
        )
        for place, verb in enumerate((*QUICK, *SLOW))
        for state, stream in enumerate(OUTCOMES)
    ],
)


@posix
@each_verb_and_stream
def test_a_result_that_cannot_be_told_is_an_error(lines: Lines, verb: str, stream: Callable[[], TextIO | None]) -> None:
    code, said = OUTCOMES[stream]
    for flags in ([], ["--json"]):
        line = [*lines.line(verb), *(flags if verb not in ("help", "version") else ())]
        ran = Streams().run(line, stdout=stream())
        assert ran.code == code, ran.err
        assert clean(ran.err).endswith(said)
        assert not ran.err.replace(said, "").count("error:")


@posix
@each_verb_and_stream
def test_asides_that_cannot_be_told_change_nothing(
    lines: Lines, verb: str, stream: Callable[[], TextIO | None]
) -> None:
    ran = Streams().run(lines.line(verb), stderr=stream())
    assert (ran.code, bool(ran.out)) == (0, True)
    assert Streams().run(["plan", "no-such-model"], stderr=stream()).code == 2


@pytest.mark.parametrize(
    ("verb", "encoding"),
    [
        pytest.param(
            verb,
            encoding,
            marks=() if verb in QUICK and not number else pytest.mark.slow if number in (0, 1 + place % 3) else GRID,
        )
        for place, verb in enumerate((*QUICK, *SLOW))
        for number, encoding in enumerate(("ascii", "cp1252", "cp437", "utf-16"))
    ],
)
def test_what_an_encoding_lacks_is_spelled_in_ascii(lines: Lines, verb: str, encoding: str) -> None:
    ran = Streams(encoding).run(lines.line(verb))
    assert ran.code == 0, ran.err
    clean(ran.out + ran.err)
    assert encoding != "ascii" or "?" not in ran.out or verb == "generate"
    if verb == "plan":
        assert any(sign in ran.out for sign in "#█")


@pytest.mark.parametrize("verb", ["run", "generate"])
def test_nothing_is_read_from_a_standard_input_that_is_closed(lines: Lines, verb: str) -> None:
    ran = Streams(stdin=None).run([verb, str(lines.folder / "out")])
    assert ran.code == 2 and ran.out == ""
    assert clean(ran.err).startswith("error: there is no ") and "pipe text in" in ran.err


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_needs_a_standard_input(lines: Lines, verb: str) -> None:
    assert Streams(stdin=None).run(lines.line(verb)).code == 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_loses_no_letter(lines: Lines, encoding: str) -> None:
    name = lines.folder / "été \udcff.txt"
    name.write_bytes(b"text")
    line = ["new", *MODEL, "--force", "-o", str(name)]
    made = Streams(encoding).run([*line, "--json"])
    assert json.loads(made.out)["path"] == str(name)
    assert clean(Streams(encoding).run(line).out).count("?") == (2 if encoding == "ascii" else 1) + (
        encoding == "ascii"
    )


@posix
@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize("verb", [*QUICK, *SLOW])
@pytest.mark.parametrize(
    ("shape", "codes"),
    [
        ("{} <&-", (0,)),
        ("{} 2>&-", (0,)),
        ("{} <&- 2>&-", (0,)),
        ("{} >&-", (2,)),
        ("{} <&- >&- 2>&-", (2,)),
        ("{} > /dev/full", (2,)),
        ("{} 2> /dev/full", (0,)),
        ("{} | head -c 1 > /dev/null", (0, 141)),
        ("PYTHONIOENCODING=ascii {}", (0,)),
        ("PYTHONIOENCODING=cp1252 {}", (0,)),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {}", (0,)),
        ("TERM=dumb NO_COLOR=1 COLUMNS=20 {}", (0,)),
    ],
)
def test_a_process_of_its_own(lines: Lines, verb: str, shape: str, codes: tuple[int, ...]) -> None:
    program = ("-m", "tests.cli.verbs") if verb == "calibrate" else ("-m", "flashir")
    words = " ".join(f"'{word}'" for word in (sys.executable, *program, *lines.line(verb)))
    command = f"set -o pipefail; {shape.format(words)}"
    made = subprocess.run(
        ["bash", "-c", command], capture_output=True, timeout=300, check=False, stdin=subprocess.DEVNULL
    )
    assert made.returncode in codes, made
    clean((made.stdout + made.stderr).decode(errors="replace"))


@posix
def test_a_file_is_not_taken_for_a_stream_that_is_closed(tmp_path: Path) -> None:
    """What is closed stays so: else the first file that is opened would get what libraries write to that stream."""
    code = "import os, sys; from flashir.cli.streams import asides\nwith asides(): os.write(2, b'gone')\n"
    code += f"handle = os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY); sys.exit(handle < 3)"
    made = subprocess.run(["bash", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', code], check=False, timeout=60)
    assert made.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""
