"""Tutorials, the notebook and the commands of all pages do what they say. Numbers are those of the reader's machine."""

import contextlib
import inspect
import io
import json
import re
import shlex

import pytest
import safetensors.numpy
import typer
from typer.testing import CliRunner

import flashir
from flashir.cli.app import app
from flashir.cli.results.docstrings import parts
from tests.importing.support import flash_transformer
from tests.test_docs import MODE, PAGES, README, ROOT, Checker, bare_folder, blocks, outputs

__all__ = ["bare_folder"]

TUTORIALS = ROOT / "docs" / "tutorials"
NUMBER = re.compile(r"\d[\d,.]*(e[+-]\d+)?( (ms|s|KiB|MiB|GiB|nats))?|[▏▎▍▌▋▊▉█]+")
TOKEN = re.compile(r"""('(\\x..|\\?.)'|"'"|0x[0-9a-f]{2}) [\d.]+%""")
"""A likely token and its probability, as `flashir run` shows them."""

BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```|((?:^    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)
"""A block of commands, fenced or indented."""


def masked(text):
    """A text without its numbers, bars and likely tokens, whose widths vary too."""
    return NUMBER.sub("N", TOKEN.sub("TOKEN", text))


def check_output(command, wanted):
    """Run a command in this process. It prints what the page shows: a result, or one error on standard error."""
    program, *arguments = shlex.split(command)
    assert program == "flashir"
    ran = CliRunner().invoke(app, arguments)
    is_error = wanted.startswith("error:")
    assert ran.exit_code == (2 if is_error else 0), f"{command}\n{ran.output}"
    printed = ran.stderr if is_error else ran.stdout
    assert Checker().check_output(masked(wanted), masked(printed), MODE), f"$ {command}\n{printed}"


def consoles(text):
    return [each for code in blocks(text, "console") for each in outputs(code)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in TUTORIALS.glob("*.md")))
def test_a_tutorial_runs_and_prints_what_it_shows(bare_folder, name):
    page = (TUTORIALS / f"{name}.md").read_text()
    for file, text in re.findall(r"Save this as `(\S+)`:\n\n```text\n(.*?)```", page, flags=re.DOTALL):
        (bare_folder / file).write_text(text)
    books = bare_folder / "books"
    books.mkdir()
    for number in range(3):
        (books / f"{number}.txt").write_text("It is a truth universally acknowledged, that a single man. " * 80)
    (bare_folder / "unseen.txt").write_text("However little known the feelings of such a man may be. " * 80)
    sizes = {"dim": 64, "expanded": 128, "query_key_dim": 16, "num_tokens": 256, "depth": 2}
    safetensors.numpy.save_file(flash_transformer(**sizes), bare_folder / "model.safetensors")
    shown = consoles(page)
    assert shown
    for command, output in shown:
        check_output(command, output)


@pytest.mark.slow
def test_every_output_in_the_readme_is_what_its_command_prints(bare_folder):
    (bare_folder / "README.md").write_text(README)
    shown = consoles(README)
    assert {command.split()[1] for command, _ in shown} >= {"export", "run", "plan"}
    for command, output in shown:
        check_output(command, output)


def test_an_output_of_other_words_is_caught(bare_folder):
    with pytest.raises(AssertionError):
        check_output("flashir new flash --size tiny -o m.fir", "m.fir  (1k weights)\n")
    assert masked("81.5 ms, 1,234 tokens/s  ████▌") == masked("2 s, 9 tokens/s  █")
    assert masked(r"next '\x13' 2.0%  ' ' 1%  0x8b 0.9%") == masked("next 'E' 0.8%  ',' 0.5%  0xa5 0.1%")


def commands():
    """Every command of flashir in a block of code, with the page that shows it."""
    for page in PAGES:
        for fenced, indented in BLOCK.findall(page.read_text()):
            for line in re.sub(r"\\\n\s*", "", fenced + indented).splitlines():
                if found := re.match(r"\s*\$? ?(?:torchrun .* -m )?(flashir [a-z].*)", line):
                    yield page, found[1]


def test_the_commands_of_all_pages_have_options_that_exist():
    root, faults = typer.main.get_command(app), []
    found = list(commands())
    assert len(found) > 80
    for page, line in found:
        line = re.split(r"   +|\s+#|\s*(?:\||>|<|&&|\|\|)\s", line)[0]
        verb, *words = shlex.split(line)[1:]
        if verb not in root.commands:
            faults.append(f"{page.name}: {line}: no verb {verb}")
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                root.commands[verb].make_context(verb, words, **app.info.context_settings)
            except typer.Exit:
                pass
            except Exception as error:  # of the parser, which has no public name
                faults.append(f"{page.name}: {line}: {getattr(error, 'message', error)}")
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_shows(bare_folder, notebook):
    scope = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("".join(cell["source"]), notebook.name, "exec"), scope)
        wanted = "".join(text for output in cell["outputs"] for text in output["text"])
        assert Checker().check_output(wanted, printed.getvalue(), MODE), printed.getvalue()


@pytest.mark.parametrize("name", [name for name in flashir.__all__ if callable(getattr(flashir, name))])
def test_the_arguments_in_a_public_docstring_exist(name):
    """The site shows them with their types."""
    subject = getattr(flashir, name)
    _, documented = parts(inspect.getdoc(subject) or "")
    known = inspect.signature(subject).parameters
    assert [argument for argument in documented if argument.lstrip("*") not in known] == []
