"""The systems of the paper: the blocks of a layer, and the sizes (Figure 3, Tables 7 to 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flashir.ir import Attr
from flashir.ops import OPS, AttrSpec

Settings = dict[str, Attr]

GATED: dict[str, Settings] = {  # one gated unit per layer
    "tiny": {"d_model": 64, "depth": 2, "key_dim": 16, "vocab": 256},  # for tests
    "small": {"d_model": 512, "depth": 15},  # Figure 3
    "base": {"d_model": 768, "depth": 24},  # Tables 7 and 8
    "large": {"d_model": 1024, "depth": 46},  # Figure 3
    "pg19": {"d_model": 1024, "depth": 72},  # Table 9
}
PAIRS: dict[str, Settings] = {  # attention and feed-forward per layer; heads of width 64, except for tests
    "tiny": {"d_model": 64, "depth": 2, "heads": 4, "vocab": 256},
    "small": {"d_model": 512, "depth": 8},  # Figure 3, otherwise as in the tables
    "base": {"d_model": 768, "depth": 12},
    "large": {"d_model": 1024, "depth": 24},
    "pg19": {"d_model": 1024, "depth": 36},
}


@dataclass(frozen=True)
class System:
    """A system of the paper.

    Args:
        blocks: the blocks of a layer, in order.
        doc: one line of documentation.
        sizes: the settings of each size.
        position: the block that adds absolute positions.
        own: settings that differ from the defaults, for all tasks.
        by_chunk: whether segments may mask whole chunks, as in Code 7.
    """

    blocks: tuple[str, ...]
    doc: str
    sizes: Mapping[str, Settings] = field(repr=False)
    position: str = "scaled_sin"
    own: Settings = field(default_factory=dict)
    by_chunk: bool = False

    @property
    def apart(self) -> bool:
        """Whether its blocks support segments and padding masks."""
        return any("documents?" in OPS[block].operands for block in self.blocks)

    def specs(self) -> dict[str, AttrSpec]:
        """The attributes of its blocks, by name."""
        attrs = {name: spec for block in (self.position, *self.blocks) for name, spec in OPS[block].attrs.items()}
        return {name: spec for name, spec in attrs.items() if name not in ("scope", "valid")}


SYSTEMS = {
    "flash": System(
        ("flash",), "gated attention units with mixed chunk attention, linear in the length", GATED, by_chunk=True
    ),
    "flash-quad": System(("gau",), "gated attention units with quadratic attention", GATED),
    "transformer": System(
        ("mhsa", "mlp"),
        "softmax attention and MLP, positions learned",
        PAIRS,
        position="learned_position",
        own={"rope": False, "norm": "layer_norm"},
    ),
    "transformer+": System(("mhsa", "mlp"), "transformer with RoPE and ScaledSin", PAIRS),
    "transformer++": System(("mhsa", "glu"), "transformer+ with gated linear units for its MLPs", PAIRS),
    "performer": System(("performer", "mlp"), "linear attention with the ReLU kernel, token by token", PAIRS),
    "combiner": System(("combiner", "mlp"), "softmax over the own chunk and summaries of the others", PAIRS),
    "mc-transformer++": System(("mc_mhsa", "glu"), "transformer++ with mixed chunk attention (4.3)", PAIRS),
}
