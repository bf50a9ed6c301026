"""flashir.convert: convert a model of another package or file format to the IR, with flashir's parameter names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashir.arguments import shown, typed
from flashir.errors import InputError, ParameterError, SettingError, TargetError, counted, gathered, suggest
from flashir.importing.compare import compare
from flashir.importing.converted import Converted
from flashir.importing.importer import (
    FileImporter,
    Forward,
    Held,
    Importer,
    Settings,
    Structure,
    broken_importers,
    file_importers,
    importer,
    importers,
)
from flashir.importing.read_source import read_source
from flashir.ir.dims import plain
from flashir.ir.op import REQUIRED, AttrSpec
from flashir.models.parameters import checked
from flashir.plugins import IMPORTERS, at_fault, plugins

VERIFY = ("auto", "package", "off")
SHOWN = 20
"""The most problems that an error lists."""


@typed
def convert(
    source: Any, *, family: str | None = None, prefix: str = "", verify: str = "auto", **options: Any
) -> Converted:
    """Convert a model of another package, or of another file format, and verify the result.

    Args:
        source: a live PyTorch module; a .safetensors file, or the .index.json of a sharded one; a .pt, .pth, .ckpt or
            .bin file, of which only tensors are read; a folder with one of these, and optionally a config.json;
            tensors by name; or a file or folder of a format that a `FileImporter` reads, such as an exported model.
        family: the package of the model, or the file format, such as `flash-pytorch`; recognised by default.
        prefix: the prefix of the names to import, such as `net.encoder.`.
        verify: `auto` compares with a NumPy reference of the importer, with the module if it is given, and with the
            package if it is installed; `package` requires the package; `off` skips the comparison. A model in a
            file that holds the function itself is compared with this file, and has no package.
        options: options that shapes do not determine, such as `causal=True, group_size=256`. A live module determines
            them itself.

    Raises:
        InputError: the source is of an unknown kind or family.
        SettingError: options are unknown, invalid or missing; a module has hooks or foreign parts.
        ParameterError: tensors are missing, unexpected, misshapen, not finite or damaged; or results differ.
        ArtefactError: a file of another format is damaged, or holds no model that the IR can express.
    """
    if verify not in VERIFY:
        raise SettingError(f"verify must be one of {', '.join(VERIFY)}, got {verify!r}")
    packages, formats = _chosen(family)
    if isinstance(source, str | Path) and (whole := _read_whole(Path(source), formats, verify != "off")) is not None:
        surplus = [*options, *(["prefix"] if prefix else []), *(["verify = 'package'"] if verify == "package" else [])]
        if surplus:
            raise SettingError(f"{', '.join(surplus)} cannot be set: the file holds the whole model", where=str(source))
        return whole
    if not packages:
        (kind,) = formats.values()
        raise InputError(f"this is not {kind.reads}", where=shown(source))
    try:
        held = read_source(source, prefix, [kind.reads for kind in formats.values()])
        name, structure = _recognised(held, packages)
    except InputError as error:  # an importer that does not load may be the one that would read it
        broken = broken_importers() if family is None else {}
        problems = [*error.problems, *(problem for own in broken.values() for problem in own.problems)]
        raise InputError(problems, where=error.where, hint=error.hint) from None
    settings, notes = _settled(held, structure, {key: plain(value) for key, value in options.items()})
    graph, arrays = structure.build(held.arrays, settings)
    params = checked(graph, arrays)
    notes = [*held.notes, *notes, *_inexact(held, structure, settings)]
    if verify != "off":
        notes.append(compare(graph, params, structure, settings, _others(held, structure, settings, verify)))
    return Converted(graph, params, name, structure.name, settings, tuple(notes))


def _chosen(family: str | None) -> tuple[Mapping[str, Importer], Mapping[str, FileImporter]]:
    """The importers to ask: all, or the one of this name. Raises SettingError for an unknown name."""
    if family is None:
        return importers(), file_importers()
    if family not in plugins(IMPORTERS):
        raise SettingError(f"unknown family {family!r}{suggest(family, plugins(IMPORTERS))}")
    kind = importer(family)
    return ({}, {family: kind}) if isinstance(kind, FileImporter) else ({family: kind}, {})


def _read_whole(path: Path, formats: Mapping[str, FileImporter], verify: bool) -> Converted | None:
    """The model in a file that holds all of it; None if no importer reads its format."""
    for name, kind in formats.items():
        whole: object = kind.read(path, verify)
        if isinstance(whole, Converted):
            return whole
        if whole is not None:
            raise at_fault(IMPORTERS, name, f"it read {shown(whole)}, not a Converted")
    return None


def _recognised(held: Held, packages: Mapping[str, Importer]) -> tuple[str, Structure]:
    """The importer and the kind of model. Raises InputError if there is none."""
    for name, kind in packages.items():
        for structure in kind.structures():
            if structure.recognise(held.shapes):
                return name, structure
    structures = [structure for kind in packages.values() for structure in kind.structures()]
    some = ", ".join(list(held.arrays)[:5])
    of = f" of {next(iter(packages))}" if len(packages) == 1 else ""
    raise InputError(
        [*held.problems, f"these tensors belong to no known model{of}: {some}, .."],
        where=held.where,
        hint=_under_a_prefix(held, structures)
        or f"known models are {', '.join(structure.name for structure in structures)}",
    )


def _under_a_prefix(held: Held, structures: Sequence[Structure]) -> str:
    """The shortest prefix under which there is a model, as text; empty if there is none."""
    shapes = held.shapes
    ends = {name[: place + 1] for name in shapes for place, letter in enumerate(name) if letter == "."}
    for prefix in sorted(ends, key=len):
        inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        for structure in structures:
            if structure.recognise(inside):
                return f"the tensors under {prefix!r} are those of {structure.name}: give the prefix {prefix!r}"
    return ""


def _settled(held: Held, structure: Structure, own_options: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """The sizes and options of the model, and notes. Raises with every problem of options and tensors at once."""
    problems: list[str] = list(held.problems)
    stated: Settings = {}
    with gathered(problems):
        stated = _options_of_config(held, structure)
    if problems:
        raise SettingError(problems, where=held.where, hint="remove these parts, or convert the state_dict")
    options, notes, of_options = _completed(structure, {**stated, **own_options})
    source = "the config.json" if held.module is None else "the module"
    of_options += [
        f"{name} is {stated[name]!r} in {source}, and {value!r} was given"
        for name, value in own_options.items()
        if name in stated and stated[name] != value
    ]
    settings, of_tensors = options, list[str]()
    with gathered(of_tensors):
        settings = structure.sizes(held.shapes) | options
        of_tensors += _tensor_problems(held, structure, settings)
    if not (of_options or of_tensors):
        of_tensors += structure.problems(held.arrays, settings)
    if problems := of_options + of_tensors:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise (ParameterError if of_tensors else SettingError)([*problems[:SHOWN], *more], where=held.where)
    return settings, notes


def _options_of_config(held: Held, structure: Structure) -> Settings:
    """The options in a config.json or a live module. Raises SettingError if the module has foreign parts."""
    if held.module is not None:
        return structure.read_module(held.module)
    return {name: held.config[name] for name in structure.options if name in held.config}


def _completed(structure: Structure, known: Mapping[str, Any]) -> tuple[Settings, list[str], list[str]]:
    """The options, notes on those that are the package's defaults, and problems."""
    name, specs = structure.name, structure.options
    options: Settings = {}
    notes: list[str] = []
    problems = [f"{name} has no option {key!r}{suggest(key, specs)}" for key in known if key not in specs]
    for key, spec in specs.items():
        if key in known:
            if known[key] is not spec.default and (problem := spec.problem(key, known[key])):
                problems.append(problem)
            options[key] = known[key]
        elif spec.default is REQUIRED:
            problems.append(f"shapes do not determine {key} of {name}, {spec.doc}: give {key}={_example(spec)}")
        else:
            options[key] = spec.default
            notes.append(f"{key} = {spec.default}, the default of {name}: shapes do not determine it")
    return options, notes, problems


def _example(spec: AttrSpec) -> str:
    return "true or false" if bool in spec.kind else str(spec.choices[0]) if spec.choices else "256"


def _tensor_problems(held: Held, structure: Structure, settings: Settings) -> list[str]:
    """Tensors that are missing, unexpected, misshapen or not finite."""
    wanted, shapes = structure.layout(settings), held.shapes
    problems = [f"{name} {shape} is missing" for name, shape in wanted.items() if name not in shapes]
    problems += [f"{name} is not a tensor of {structure.name}" for name in shapes if name not in wanted]
    for name, shape in wanted.items():
        if name not in shapes:
            continue
        array = held.arrays[name]
        if shapes[name] != shape:
            problems.append(f"{name} must have shape {shape}, got {shapes[name]}")
        elif not np.issubdtype(array.dtype, np.floating):
            problems.append(f"{name} must hold floating-point numbers, got {array.dtype}")
        elif not np.isfinite(array).all():
            count = int(np.count_nonzero(~np.isfinite(array)))
            problems.append(f"{name} has {counted(count, 'number')} not finite")
    return problems


def _inexact(held: Held, structure: Structure, settings: Settings) -> list[str]:
    """A note if float64 tensors lose precision in float32."""
    names = structure.layout(settings)
    wide = [name for name in names if held.arrays[name].dtype == np.float64]
    lost = [name for name in wide if np.any(held.arrays[name].astype(np.float32) != held.arrays[name])]
    return [f"{len(lost)} tensors in float64 were rounded to float32, the first is {lost[0]}"] if lost else []


def _others(held: Held, structure: Structure, settings: Settings, verify: str) -> dict[str, Forward]:
    """The models for the comparison, by name. Raises TargetError if the package is required but not installed."""
    arrays = {name: np.asarray(array, np.float32) for name, array in held.arrays.items()}
    models = {"the numpy reference": structure.reference(arrays, settings)}
    if held.module is not None:
        models["the module"] = structure.live(held.module, settings)
    elif (package := structure.package(arrays, settings)) is not None:
        models["the package"] = package
    elif verify == "package":
        raise TargetError(f"the package of {structure.name} is not installed", where=held.where)
    return models
