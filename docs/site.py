"""Hooks of MkDocs: the pages that are made from the README, the records of ops, the command line and the types.

MkDocs calls the functions `on_...`. No text that stands elsewhere is written here again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.testing import CliRunner

import flashir
from flashir.cli.app import app
from flashir.cli.ops import GROUPS, about, backend_text, type_text
from flashir.cli.results import FORMS
from flashir.cli.results.machine import Op
from flashir.cli.results.schema import schema
from flashir.ops import all_ops

ROOT = Path(__file__).parent.parent
COPIED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository that are pages of the site."""

LINK = re.compile(r"(?<!\!)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
MARKUP = re.compile(r"([\\*_{}\[\]<>#|])")
ICON = re.compile('<svg xmlns(?==.http://www.w3.org/2000/svg. viewBox=.0 0 24 24.)')
CODE = re.compile(r"(```.*?```|`(?:[^`\n]|\n(?!\n))+`)", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and replace folders in the navigation by their pages."""
    pages = {page: (ROOT / file).read_text(encoding="utf-8") for file, page in COPIED.items()}
    pages |= {f"reference/ops-{group}.md": text for group, text in op_pages().items()}
    pages |= {"reference/api.md": api(), "reference/command-line.md": command_line(), "reference/json.md": types()}
    pages |= {f"reference/schemas/{verb}.json": json.dumps(schema(verb), indent=2) for verb in FORMS}
    for notebook in [*files]:
        if notebook.src_uri.endswith(".ipynb"):
            pages[notebook.src_uri.removesuffix(".ipynb") + ".md"] = markdown_of(json.loads(notebook.content_string))
    for folder, title in (("decisions", "Decisions"), ("results", "Results")):
        pages[f"{folder}/index.md"] = listing(title, [file for file in files if file.src_uri.startswith(f"{folder}/")])
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    config.nav = [unfolded(entry, files) for entry in config.nav or []]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links between files of the repository to the pages that show them."""
    source = next((ROOT / file for file, shown in COPIED.items() if shown == page.file.src_uri), None)
    here = (source or Path(config.docs_dir) / page.file.src_uri).parent

    def led(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        file = Path(os.path.normpath(here / target))
        inside = os.path.relpath(file, config.docs_dir)
        shown = COPIED.get(os.path.relpath(file, ROOT), f"{inside}/index.md" if file.is_dir() else inside)
        shown = re.sub(r"\.ipynb$", ".md", shown)
        if shown.startswith(".."):
            return f"{text} (`{os.path.relpath(file, ROOT)}`)"
        return f"[{text}]({os.path.relpath(shown, Path(page.file.src_uri).parent)}{anchor})"

    prose = CODE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(led, part) for number, part in enumerate(prose))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name what the theme leaves without a name."""
    return named(output)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Likewise in pages of the theme's own."""
    return named(output_content)


def named(output: str) -> str:
    """HTML in which keyboards and screen readers open the menu and the search, and skip icons, which are decoration."""
    for toggle, name in (("drawer", "Menu"), ("search", "Search")):
        label = f'<label class="md-header__button md-icon" for="__{toggle}"'
        output = output.replace(label, f'{label} role="button" tabindex="0" aria-label="{name}"')
    return ICON.sub('<svg aria-hidden="true" xmlns', output)


def unfolded(entry: Any, files: Files) -> Any:
    """An entry of the navigation; the name of a folder stands for its pages, an index first."""
    if isinstance(entry, str):
        return entry
    ((title, content),) = entry.items()
    if isinstance(content, str) and content.endswith("/"):
        inside = [file.src_uri for file in files if file.src_uri.startswith(content) and file.src_uri.endswith(".md")]
        return {title: sorted(inside, key=lambda path: (not path.endswith("/index.md"), path))}
    return entry


def listing(title: str, files: Sequence[File]) -> str:
    """A page with the titles of other pages."""
    pages = sorted((file for file in files if file.src_uri.endswith(".md")), key=lambda file: file.src_uri)
    titles = (re.search(r"^# (.+)$", file.content_string, re.MULTILINE) for file in pages)
    names = (file.src_uri.rpartition("/")[2] for file in pages)
    return f"# {title}\n\n" + "".join(f"- [{found[1]}]({name})\n" for found, name in zip(titles, names) if found)


def op_pages() -> dict[str, str]:
    """A page for each group of ops."""
    facts = [about(record) for record in sorted(all_ops(), key=lambda record: record.name)]
    return {
        group: f"# Ops: {group}\n\n" + "\n".join(op_section(op) for op in facts if op["group"] == group)
        for group in GROUPS
    }


def op_section(op: Op) -> str:
    """One op: the same facts as `flashir ops NAME` prints."""
    shapes = op["shapes"][0]
    parameters = ", ".join(f"`{each['name']} {each['shape']}`" for each in op["parameters"])
    lines = [
        f"## {op['name']}\n\n{plain(op['doc'])}\n",
        f"`{op['name']}({', '.join(op['operands'])})`\n",
        f"- Source: {op['source']}" if op["source"] else "",
        f"- Backends: {', '.join(map(backend_text, op['backends'])) or 'none claims it whole'}",
        f"- Shapes: `{', '.join(shapes['operands'])} -> {', '.join(shapes['results'])}`",
        f"- Parameters: {parameters}" if parameters else "",
    ]
    settings = [
        (f"`{each['name']}`", type_text(each), f"`{each['default'] or 'required'}`", plain(each["doc"]))
        for each in op["settings"]
    ]
    table = grid(("setting", "type", "default", ""), settings) if settings else ""
    return "\n".join(filter(None, lines)) + f"\n\n{table}\n```text\n{op['example']}```\n"


def api() -> str:
    """The public names, by their docstrings."""
    names = [name for name in flashir.__all__ if not name.startswith("_")]
    parts = [
        f"::: flashir.{flashir._MODULE_OF[name]}.{name}\n    options:\n      heading: flashir.{name}\n"
        for name in names
    ]
    return "# Python\n\n" + "\n".join(parts)


def command_line() -> str:
    """The help of every verb."""
    sections = (f"## flashir {verb}\n\n```text\n{help_of(verb)}\n```\n" for verb in FORMS)
    return f"# The command line\n\n```text\n{help_of()}\n```\n\n" + "\n".join(sections)


def help_of(*words: str) -> str:
    """What `--help` prints."""
    return CliRunner().invoke(app, [*words, "--help"]).stdout.strip("\n")


def types() -> str:
    """The JSON of every verb: a section for each type."""
    documents = {verb: schema(verb) for verb in FORMS}
    rows = [
        (
            f"`flashir {verb}`",
            "<br>".join(
                f"[{form.type.__name__}](#{form.type.__name__.lower()})"
                + (", a list" if form.is_list else "")
                + (f" with {form.when}" if form.when else "")
                for form in FORMS[verb]
            ),
            f"[{verb}.json](schemas/{verb}.json)",
        )
        for verb in FORMS
    ]
    definitions = {name: value for document in documents.values() for name, value in document["$defs"].items()}
    sections = [
        f"## {name}\n\n{definition['description']}\n\n" + grid(("field", "type", ""), list(fields_of(definition)))
        for name, definition in sorted(definitions.items())
    ]
    return (
        "# JSON\n\nEvery verb prints one JSON value with `--json`. `schema` is the version of its form: a later version "
        "of flashir may add fields to a form, and has another number if a field changes its meaning or is gone.\n\n"
        + grid(("verb", "prints", "JSON Schema"), rows)
        + "\n"
        + "\n".join(sections)
    )


def fields_of(definition: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The fields of a type: name, type, description."""
    for name, form in definition["properties"].items():
        optional = "" if name in definition["required"] else ", optional"
        yield f"`{name}`", spelled(form) + optional, plain(form["description"])


def spelled(form: dict[str, Any]) -> str:
    """A JSON Schema in words."""
    if "$ref" in form:
        name = form["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in form:
        return " or ".join(map(spelled, form["anyOf"]))
    if "const" in form:
        return f"`{form['const']}`"
    kind = form.get("type", "any value")
    if kind == "array":
        return f"list of {spelled(form.get('items') or {})}"
    if kind == "object" and isinstance(form.get("additionalProperties"), dict):
        return f"object of {spelled(form['additionalProperties'])}"
    return kind if isinstance(kind, str) else " or ".join(kind)


def plain(text: str) -> str:
    """Text in which Markdown finds no markup but code."""
    parts = CODE.split(text)
    return "".join(part if number % 2 else MARKUP.sub(r"\\\1", part) for number, part in enumerate(parts))


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def markdown_of(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown: its code and what the code prints."""
    show: dict[str, Callable[[dict[str, Any]], str]] = {
        "markdown": lambda cell: "".join(cell["source"]),
        "code": lambda cell: (
            f"```python\n{''.join(cell['source'])}\n```"
            + "".join(f"\n\n```text\n{''.join(output['text'])}```" for output in cell["outputs"])
        ),
    }
    return "\n\n".join(show[cell["cell_type"]](cell) for cell in notebook["cells"])
