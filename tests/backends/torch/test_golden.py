"""The code of one tiny model, as it was last agreed to.

After a change that is meant to change it, write it anew and read the difference:

    python -m tests.backends.torch.test_golden && git diff tests/golden/torch
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torch import fx

from tests.backends.torch.support import flash, net

GOLDEN = Path(__file__).parents[2] / "golden" / "torch" / "flash.txt"


def test_the_code_is_as_agreed() -> None:
    assert text() == GOLDEN.read_text(encoding="utf-8")


def text() -> str:
    """One flash layer, states summed up by a scan."""
    return "\n".join(_modules(net(flash(depth=1)))) + "\n"


def _modules(made: fx.GraphModule) -> Iterator[str]:
    for name, each in made.named_modules():
        if isinstance(each, fx.GraphModule):
            code = re.sub(r";  (\w+ = )+None(?=\n)", "", each.code).strip()
            yield f"# {name or 'the model'}\n{code}\n"


if __name__ == "__main__":
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(text(), encoding="utf-8")
