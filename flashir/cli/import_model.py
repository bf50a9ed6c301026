"""flashir import: a model of another package as a checkpoint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flashir.cli import console, options


class Verify(StrEnum):
    """What an imported model is held against."""

    AUTO = "auto"
    PACKAGE = "package"
    OFF = "off"


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A .safetensors file, or the .index.json of one in parts; a .pt, .pth, .ckpt or .bin file, of which "
            "only tensors are read; or a folder with one of them.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="FOLDER", help="Where to write the checkpoint.", rich_help_panel=options.OUTPUT
        ),
    ],
    family: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FAMILY",
            help="The package that it is of, such as flash-pytorch; recognised without.",
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "-s",
            "--set",
            metavar="KEY=VALUE",
            help="What no shape tells, such as causal=true; repeat for more.",
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="What stands before the names that are meant.", rich_help_panel=options.MODEL
        ),
    ] = "",
    verify: Annotated[
        Verify,
        typer.Option(
            help="Compare with a numpy reference, and the package where it is installed; want that it is; or nothing.",
            rich_help_panel=options.MODEL,
        ),
    ] = Verify.AUTO,
    as_json: options.Json = False,
) -> None:
    """Import a model of another package as a checkpoint, which every other verb takes.

    The package is recognised by the names of tensors, and sizes by their shapes. What no shape tells is asked for,
    or is the package's default, and said. The result is compared with the model that it was before anything is written.

    Examples:
        flashir import model.safetensors -s causal=true -s group_size=256 -o checkpoint/
        flashir import lightning.ckpt --prefix net. --from flash-pytorch -s causal=true -s group_size=128 -o checkpoint/
        flashir export checkpoint/ --target onnx:cpu -o out/
    """
    from flashir.cli import source as words
    from flashir.errors import ArtefactError
    from flashir.importing.convert import convert
    from flashir.ir.parameter_count import parameter_count

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtefactError("there is something already", where=str(out), hint="choose another folder")
    given = words.read_settings(settings or ())
    made = convert(source, family=family, prefix=prefix, verify=verify.value, **given)
    written = str(made.save(out))
    count = parameter_count(made.model)
    about = {"family": made.family, "structure": made.structure, "options": dict(made.options)}
    if console.answer({**about, "notes": list(made.notes), "parameters": count, "path": written}, as_json):
        return
    for note in made.notes:
        console.say(f"note  {note}", "dim")
    console.say(f"{written}  ({made.structure} of {made.family}, {console.many(count)} parameters)")
