"""flashir import: turn a model of another package, or a file that holds all of it, into a checkpoint."""

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
            "only tensors are read; a folder with one of them; an exported model; or an ONNX file.",
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
            help="The package of the model, such as flash-pytorch, or its format, onnx or artefact. By default it is "
            "recognised.",
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
    """Import a model of another package, or an exported model, as a checkpoint for every verb.

    The names of the tensors identify the package, and their shapes give the sizes. For settings that no shape shows,
    the import asks or takes the default of the package and says so. The result is compared with the original model
    before anything is written.

    What `flashir export` wrote comes back exactly. An ONNX file of another exporter is raised to flash and gau layers
    and compared with the file in ONNX Runtime; parts that are not recognised are listed with their places.

    Examples:
        flashir import model.safetensors -s causal=true -s group_size=256 -o checkpoint/
        flashir import lightning.ckpt --prefix net. --from flash-pytorch -s causal=true -s group_size=128 -o checkpoint/
        flashir export checkpoint/ --target onnx:cpu -o out/
        flashir import out/ -o checkpoint-again/
        flashir import torch.onnx -o checkpoint/
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
    source_of_model = {"family": converted.family, "structure": converted.structure, "options": dict(converted.options)}
    if console.answer(
        {**source_of_model, "notes": list(converted.notes), "parameters": count, "path": written}, as_json
    ):
        return
    for note in converted.notes:
        console.say(f"note  {note}", "dim")
    console.say(f"{written}  ({converted.family}: {converted.structure}, {console.many(count)} parameters)")
