"""Several models of OpenVINO that read their constants from one data file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

ALIGNMENT = 64


def share(data: Path, others: Iterable[tuple[Path, Path]]) -> None:
    """Append to a data file the constants that only other models have, and let those models read all from there.

    Args:
        data: the data file of the first model, whose offsets do not change.
        others: the XML and the data file of each other model. The XML is written again, the data file removed.
    """
    offsets: dict[bytes, int] = {}
    first = data.with_suffix(".xml")
    for _, offset, content in _constants(ElementTree.parse(first).getroot(), data):
        offsets.setdefault(_digest(content), offset)
    for xml, own in others:
        tree = ElementTree.parse(xml)
        with data.open("ab") as file:
            for place, _, content in _constants(tree.getroot(), own):
                if (key := _digest(content)) not in offsets:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    offsets[key] = file.tell()
                    file.write(content)
                place.set("offset", str(offsets[key]))
        tree.write(xml, encoding="utf-8", xml_declaration=True)
        own.unlink()


def _constants(model: ElementTree.Element, data: Path) -> Iterator[tuple[ElementTree.Element, int, memoryview]]:
    """Where each constant of a model is told, its offset in the data file, and its content."""
    numbers = memoryview(data.read_bytes())
    for layer in model.iter("layer"):
        place = layer.find("data")
        if layer.get("type") == "Const" and place is not None:
            offset, size = int(place.get("offset", 0)), int(place.get("size", 0))
            yield place, offset, numbers[offset : offset + size]


def _digest(content: memoryview) -> bytes:
    return hashlib.sha256(content).digest()
