"""No flipped bit, cut or lost block in a file that flashir wrote gives another number without a word."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.flips import KINDS, REFUSED, SAME, WARNED, WRONG, Damage, outcome

HEALED = {"shards"}
"""What is made again where it is damaged, so that there is nothing to say."""


@pytest.mark.parametrize(
    ("name", "count"),
    [pytest.param(name, 8 if k.slow else 40, marks=[pytest.mark.slow] if k.slow else []) for name, k in KINDS.items()],
)
def test_damage_is_seen_or_changes_nothing(name: str, count: int, tmp_path: Path) -> None:
    kind, random, seen = KINDS[name], Random(name), Counter[str]()
    (made := tmp_path / "made").mkdir()
    kind.make(made)
    sound = kind.read(made)
    assert outcome(kind, made, sound) == SAME
    for _ in range(count):
        shutil.copytree(made, damaged := tmp_path / "damaged")
        damage = Damage.drawn(damaged, random)
        damage.do(damaged)
        seen[found := outcome(kind, damaged, sound)] += 1
        assert found != WRONG, damage
        shutil.rmtree(damaged)
    assert (seen[REFUSED] + seen[WARNED] > 0) != (name in HEALED), seen


def test_the_test_above_can_fail(tmp_path: Path) -> None:
    from tests.flips import FileKind

    def make(folder: Path) -> None:
        (folder / "number").write_text("1000")

    kind = FileKind(make, lambda folder: (folder / "number").read_bytes())
    make(tmp_path)
    Damage("number", "flip", 0, 1).do(tmp_path)
    assert outcome(kind, tmp_path, b"1000") == WRONG
