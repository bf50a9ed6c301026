"""flashir ops: the ops of the IR, from their records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.results.machine import Op, OpBackend, OpParameter, OpSetting, OpShapes, OpSummary
    from flashir.ir import Graph
    from flashir.ir.op import AttrSpec, OpDef


def ops(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One op, to see its settings, shapes and backends.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the ops of which models consist, or show one op.

    Ops of plug-ins are listed too. Operands that end in ? are optional, and xs* stands for any number. Settings are
    written in braces in IR text, and their defaults are shown as there.

    Examples:
        flashir ops
        flashir ops flash
        flashir ops rope --json
    """
    from flashir.ir.op import all_ops, opdef

    if name is not None:
        facts = about(opdef(name))
        if not console.answer(facts, as_json):
            _show(facts)
        return
    records = sorted(all_ops(), key=lambda record: (_order(group_of(record)), record.name))
    if as_json:
        console.emit({"ops": [_summary(record) for record in records]})
        return
    table = console.table("op", "group", "")
    for record in records:
        table.add_row(record.name, group_of(record), record.doc)
    console.show(table)


def about(record: OpDef) -> Op:
    """All facts about an op."""
    return {
        **_summary(record),
        "operands": list(record.operands),
        "settings": [_setting(name, spec) for name, spec in record.attrs.items()],
        "parameters": _parameters(record),
        "shapes": [_shapes(graph) for graph in _examples(record)],
        "source": record.source or None,
        "primitive": record.is_primitive,
        "backends": _backends(record),
        "example": _text(record),
    }


GROUPS = ("layers", "attention", "functions", "primitive")
"""The folders of `flashir.ops`, from whole layers down."""


def group_of(record: OpDef) -> str:
    """The folder of `flashir.ops` that defines an op, or its plug-in."""
    from flashir.ir.op import EXTENSIONS

    added = (plugin for plugin, names in EXTENSIONS.added.items() if record.name in names)
    rules = (record.decompose, record.ref, record.infer, record.cost)  # its own come first, the others may be shared
    folders = (rule.__module__.split(".")[2] for rule in rules if _is_ours(rule))
    return next(added, None) or next(folders, "other")


def _is_ours(rule: Any) -> bool:
    """Whether a rule is defined in a folder of `flashir.ops`."""
    return str(getattr(rule, "__module__", "")).startswith("flashir.ops.")


def _order(group: str) -> tuple[int, str]:
    return (GROUPS.index(group) if group in GROUPS else len(GROUPS), group)


def _summary(record: OpDef) -> OpSummary:
    return {"name": record.name, "group": group_of(record), "doc": record.doc}


def _setting(name: str, spec: AttrSpec) -> OpSetting:
    from flashir.ir.op import REQUIRED
    from flashir.ir.text.printer import attr_text

    return {
        "name": name,
        "types": [_TYPES.get(kind.__name__, kind.__name__.lower()) for kind in spec.kind],
        "default": None if spec.default is REQUIRED else attr_text(spec.default),
        "choices": [attr_text(value) for value in spec.choices],
        "auto": None if spec.choice is None else [attr_text(value) for value in spec.choice.values],
        "least": spec.least,
        "most": spec.most,
        "doc": spec.doc,
    }


_TYPES = {"str": "string", "tuple": "list", "Dim": "size"}
"""How types of settings are called in the IR, where it is not their Python name."""


def _examples(record: OpDef) -> Iterator[Graph]:
    from flashir.ir import loads
    from flashir.ir.examples import sample_graph

    if record.example:
        yield loads(record.example)
    for sample in record.samples:
        yield sample_graph(record, sample)


def _shapes(graph: Graph) -> OpShapes:
    return {"operands": [str(value.type) for value in graph.inputs], "results": [str(v.type) for v in graph.outputs]}


def _parameters(record: OpDef) -> list[OpParameter]:
    """The parameters that an op owns in its first example."""
    if record.params is None:
        return []
    node = next(node for graph in _examples(record) for node in graph.nodes if node.op == record.name)
    specs = record.params(*(value.type if value else None for value in node.inputs), **node.attrs)
    return [{"name": name, "shape": list(spec.shape)} for name, spec in specs.items()]


def _text(record: OpDef) -> str:
    """The first example as IR text."""
    from flashir.ir import dumps

    return next(map(dumps, _examples(record)), "")


def _backends(record: OpDef) -> list[OpBackend]:
    """The backends that implement an op natively: on which targets, and whether in all its samples."""
    from flashir.backends.registry import backend_names, backend_of
    from flashir.errors import TargetError
    from flashir.machine.targets import target_names

    nodes = [node for graph in _examples(record) for node in graph.nodes if node.op == record.name]
    claims: list[OpBackend] = []
    for name in backend_names():
        devices = [target.partition(":")[2] for target in target_names() if target.startswith(f"{name}:")]
        try:
            shares = {d: sum(map(backend_of(f"{name}:{d}").claims, nodes)) / max(1, len(nodes)) for d in devices}
        except TargetError:  # `flashir doctor` reports it
            continue
        if native := [device for device, share in shares.items() if share]:
            always = len(native) == len(devices) and min(shares.values()) == 1
            claims.append({"backend": name, "devices": native, "always": always})
    return claims


def _show(facts: Op) -> None:
    """Print an op."""
    console.say(f"{facts['name']}({', '.join(facts['operands'])})  {facts['doc']}", "bold")
    console.say()
    kind = "primitive" if facts["primitive"] else "descends into simpler ops where no backend claims it"
    lines = {"group": f"{facts['group']}, {kind}"}
    if facts["source"]:
        lines["source"] = facts["source"]
    lines["backends"] = ", ".join(map(backend_text, facts["backends"])) or "none claims it whole"
    for shapes in facts["shapes"][:1]:
        lines["shapes"] = f"{', '.join(shapes['operands'])} -> {', '.join(shapes['results'])}"
    for parameter in facts["parameters"]:
        lines.setdefault("parameters", "")
        lines["parameters"] += f"{', ' if lines['parameters'] else ''}{parameter['name']} {parameter['shape']}"
    console.show(console.facts(lines))
    if facts["settings"]:
        console.say()
        table = console.table("setting", "type", "default", "")
        for setting in facts["settings"]:
            table.add_row(setting["name"], type_text(setting), setting["default"] or "required", setting["doc"])
        console.show(table)
    console.say()
    console.say("Example", "bold")
    console.echo(facts["example"])


def type_text(setting: OpSetting) -> str:
    """The accepted values of a setting: its choices, or its types and least value."""
    words = setting["choices"] or list(setting["types"])
    words = [*words, "auto"] if setting["auto"] is not None else words
    least = "" if setting["least"] is None or setting["choices"] else f" from {setting['least']:g}"
    return " or ".join(words) + least


def backend_text(claim: OpBackend) -> str:
    """A backend that claims an op: `onnx`, or `jax on tpu-v4, for some settings`."""
    return claim["backend"] if claim["always"] else f"{claim['backend']} (some settings or devices)"
