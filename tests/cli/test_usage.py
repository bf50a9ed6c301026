"""What is wrong with a command line is told in our own words, for every option of every verb."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from flashir.cli.app import app
from tests.cli.conftest import Cli
from tests.cover import cover

OTHERS = re.compile(
    r"Input should|Value error|Invalid value|No such|Missing |unable to parse|does not take|Got unexpected"
)
"""Sentences of the parser, and of the library that checks its values."""

ROOT: Any = typer.main.get_command(app)
VALUED = [
    (verb, max(param.opts, key=len))
    for verb, command in ROOT.commands.items()
    for param in command.params
    if param.param_type_name == "option" and not param.is_flag
]

ONCE = cover(VALUED, together=1)
"""Every verb and the name of every option."""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plan flash --chunk x", "--chunk must be a whole number, got 'x'"),
        ("plan flash --policy bad", "--policy must be one of quality, fastest, got 'bad'"),
        ("generate flash --temperature abc", "--temperature must be a number, got 'abc'"),
        ("export flash --max-len 0", "--max-len must be a number from 1 on, got '0'"),
        ("plan flash --seqlen 3", "plan has no option --seqlen; did you mean '--seq-len'?"),
        ("plan flash -x", "plan has no option -x"),
        (
            "bench flash --output n",
            "bench has no option --output: it runs systems whole; give the text of a model that returns this result "
            "alone",
        ),
        ("--foo", "flashir has no option --foo"),
        ("calibrate", "TARGET is missing"),
        ("plon", "there is no verb 'plon'; did you mean 'plan'?"),
        ("plan flash more", "plan takes no 'more'"),
        ("plan flash --json=3", "--json takes no value"),
    ],
)
def test_a_usage_error_says_what_was_wanted_and_what_came(cli: Cli, line: str, said: str) -> None:
    assert cli.fails(*line.split()).splitlines()[0] == f"error: {said}"


@pytest.mark.parametrize(
    ("verb", "option"),
    [pytest.param(*each, marks=() if place in ONCE else pytest.mark.slow) for place, each in enumerate(VALUED)],
)
def test_an_option_that_lacks_its_value_or_has_a_strange_one(
    cli: Cli, verb: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a value may be good, and then the verb writes where it writes by default
    assert cli.fails(verb, option).splitlines()[0] == f"error: {option} needs a value"
    told = cli(verb, option, "\x00strange").stderr
    assert not OTHERS.search(told), told
