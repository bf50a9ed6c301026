"""flashir import: turn a model of another package into a checkpoint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flashir.cli import console, options


class Verify(StrEnum):
    """What an imported model is compared with."""

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
            help="The package of the model, such as flash-pytorch. By default it is recognised.",
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "-s",
            "--set",
            metavar="KEY=VALUE",
            help="A setting that no shape shows, such as causal=true; repeat for more.",
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Prefix of the tensor names to import.", rich_help_panel=options.MODEL),
    ] = "",
    verify: Annotated[
        Verify,
        typer.Option(
            help="auto compares with a numpy reference, and with the package if it is installed; package requires the "
            "package; off compares with neither.",
            rich_help_panel=options.MODEL,
        ),
    ] = Verify.AUTO,
    as_json: options.Json = False,
) -> None:
    """Import a model of another package as a checkpoint, which every other verb accepts.

    The names of the tensors identify the package, and their shapes give the sizes. For settings that no shape shows,
    the import asks or takes the default of the package and says so. The result is compared with the original model
    before anything is written.

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
        raise ArtefactError("the folder is not empty, or is a file", where=str(out), hint="choose another folder")
    options_set = words.read_settings(settings or ())
    converted = convert(source, family=family, prefix=prefix, verify=verify.value, **options_set)
    written = str(converted.save(out))
    count = parameter_count(converted.model)
    about = {"family": converted.family, "structure": converted.structure, "options": dict(converted.options)}
    if console.answer({**about, "notes": list(converted.notes), "parameters": count, "path": written}, as_json):
        return
    for note in converted.notes:
        console.say(f"note  {note}", "dim")
    console.say(f"{written}  ({converted.structure} of {converted.family}, {console.many(count)} parameters)")
