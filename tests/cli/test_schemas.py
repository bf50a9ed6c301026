"""The JSON of every verb has a schema, and what the verb prints agrees with it."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator, ValidationError

from flashir.cli.app import app
from flashir.cli.results import FORMS
from flashir.cli.results.schema import schema
from tests.cli.conftest import TINY, Cli, validator
from tests.cli.verbs import QUICK, Lines


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    lines = Lines(tmp_path_factory.mktemp("verbs"))
    lines.prepare()
    return lines


def verbs() -> list[str]:
    """The names of all verbs, as on the command line."""
    return [command.name or command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]


def test_every_verb_has_a_schema() -> None:
    assert set(verbs()) == set(FORMS)


@pytest.mark.parametrize("verb", FORMS)
def test_a_schema_describes_every_field(verb: str) -> None:
    document = schema(verb)
    Draft202012Validator.check_schema(document)
    for form in FORMS[verb]:
        fields = document["$defs"][form.type.__name__]["properties"]
        assert next(iter(fields)) == "schema"
    for name, definition in document["$defs"].items():
        assert definition["description"], name
        assert not [field for field, form in definition["properties"].items() if not form["description"]], name


MEASURED = sorted(FORMS.keys() - {"calibrate"})  # test_calibrate.py has times that no other work disturbs


@pytest.mark.parametrize(
    "verb", [verb if verb in QUICK else pytest.param(verb, marks=pytest.mark.slow) for verb in MEASURED]
)
def test_what_a_verb_prints_agrees_with_its_schema(cli: Cli, lines: Lines, verb: str) -> None:
    cli.json(*lines.line(verb))


TYPES = ("plan", "flash", "--size", "tiny", "--chunk", "16", "--target", "torch:h100", "--dtype", "float32,float16")


@pytest.mark.parametrize(
    "line", [("targets",), ("targets", "onnx:cpu"), ("ops",), ("bench", "--published", "lm"), TYPES]
)
def test_the_other_forms_agree_too(cli: Cli, line: tuple[str, ...]) -> None:
    cli.json(*line)


def test_a_field_that_the_schema_does_not_name_is_refused(cli: Cli) -> None:
    made = json.loads(cli("new", *TINY, "--json").stdout)
    with pytest.raises(ValidationError, match="surprise"):
        validator("new").validate({**made, "surprise": 1})
    with pytest.raises(ValidationError, match="'text' is a required property"):
        validator("new").validate({name: value for name, value in made.items() if name != "text"})
