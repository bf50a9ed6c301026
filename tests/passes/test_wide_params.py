"""Parameters in float32 under a model that computes with fewer bits."""

from __future__ import annotations

import flashir
from flashir.backends.lowering import Lowering
from flashir.ir import DType
from flashir.transforms.set_dtype import SetDType
from flashir.transforms.wide_params import WideParams
from tests.support import assert_same_function


def test_every_parameter_is_wide_and_the_function_the_same() -> None:
    model = flashir.model("flash", size="tiny", chunk=4, cumsum="scan")
    narrow = Lowering("none").run(SetDType("bfloat16").apply(model))
    wide = WideParams().apply(narrow)
    before, after = ({n.output.type.dtype for n in g.walk() if n.op == "param"} for g in (narrow, wide))
    assert DType.BF16 in before
    assert after == {DType.F32}
    assert_same_function(narrow, wide, {"B": 2, "T": 7})
