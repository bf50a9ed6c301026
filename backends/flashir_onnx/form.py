"""The form of an ONNX model: the opset, the type of token ids, and whether the model is portable."""

from __future__ import annotations

from dataclasses import dataclass

from flashir.errors import SettingError

OLDEST = 17
"""The first opset with LayerNormalization. See docs/decisions/003."""

IR_VERSION = 8
"""The first IR version with functions in a model."""

WIDE = "int64"
ID_TYPES = (WIDE, "int32")


@dataclass(frozen=True)
class Form:
    """How a model is written, with the same results in every form.

    Args:
        opset: the version of the standard operators.
        ids: the type of the inputs `input_ids` and `segment_ids`.
        portable: use only what every runtime supports: standard operators, layers in place instead of functions, and
            loops that get values from outside as inputs instead of capturing them.

    Raises:
        SettingError: the opset is too old or unknown, or tokens do not have that type.
    """

    opset: int = OLDEST
    ids: str = WIDE
    portable: bool = False

    def __post_init__(self) -> None:
        """Check the opset and the type."""
        problems = []
        if self.opset < OLDEST:
            problems.append(f"opset must be {OLDEST} or more, got {self.opset}: {OLDEST} brought LayerNormalization")
        if self.opset > OLDEST and self.opset > (newest := _newest()):
            problems.append(f"opset must be at most {newest}, the newest of the installed onnx, got {self.opset}")
        if self.ids not in ID_TYPES:
            problems.append(f"ids can be {' or '.join(ID_TYPES)}, got {self.ids!r}")
        if problems:
            raise SettingError(problems)

    @property
    def ir_version(self) -> int:
        """The oldest IR version that may use the opset."""
        from onnx import helper

        oldest: int = helper.find_min_ir_version_for([helper.make_opsetid("", self.opset)])
        return max(IR_VERSION, oldest)


FORM = Form()
"""The form of a model unless another is asked for."""


def _newest() -> int:
    from onnx import defs

    return int(defs.onnx_opset_version())
