"""JSON Schema documents of the output of the verbs, from the types in this package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, is_typeddict

import msgspec

from flashir.cli.console import SCHEMA
from flashir.cli.results import FORMS, WITH_CHOICES, Form, machine, models, texts
from flashir.cli.results.docstrings import parts

DIALECT = "https://json-schema.org/draft/2020-12/schema"
VERSION = {"const": SCHEMA, "description": "the version of this form"}
CHOICE = {"type": ["boolean", "integer", "null", "number", "string"]}

Schema = dict[str, Any]


def schema(verb: str) -> Schema:
    """The schema of the JSON of a verb. It allows no field that it does not name, but for choices."""
    forms = FORMS[verb]
    _, types = msgspec.json.schema_components([form.type for form in forms], ref_template="#/$defs/{name}")
    outermost = {form.type.__name__ for form in forms}
    types = {name: _told(name, definition, name in outermost) for name, definition in types.items()}
    wholes = [_whole(form) for form in forms]
    header = {"$schema": DIALECT, "title": f"flashir {verb} --json"}
    return {**header, **(wholes[0] if len(wholes) == 1 else {"anyOf": wholes}), "$defs": types}


def _whole(form: Form) -> Schema:
    value = {"$ref": f"#/$defs/{form.type.__name__}"}
    return {"type": "array", "items": value} if form.is_list else value


def _told(name: str, definition: Schema, is_outermost: bool) -> Schema:
    """A definition with a description of each field, in the order of the type."""
    summary, descriptions = parts(definition.get("description", ""))
    known: Schema = definition["properties"]
    order: Iterable[str] = getattr(_types().get(name), "__annotations__", known)
    fields = {field: {**known[field], "description": descriptions.get(field, "")} for field in order}
    required = [field for field in fields if field in definition.get("required", ())]
    if is_outermost:
        fields, required = {"schema": VERSION} | fields | {"schema": VERSION}, ["schema", *required]
    open_to = CHOICE if name in {kind.__name__ for kind in WITH_CHOICES} else False
    return {
        **definition,
        "description": summary,
        "properties": fields,
        "required": list(dict.fromkeys(required)),
        "additionalProperties": open_to,
    }


def _types() -> dict[str, Any]:
    """The types of this package by name. msgspec sorts their fields."""
    values = [value for module in (machine, models, texts) for value in vars(module).values()]
    return {kind.__name__: kind for kind in values if is_typeddict(kind)}
