"""Results as they were made, without a wider copy."""

from __future__ import annotations

from dataclasses import replace

import flashir
from flashir.backends.lowering import Lowering
from flashir.ir import DType, loads
from flashir.transforms.narrow_results import NarrowResults
from flashir.transforms.set_dtype import SetDType
from tests.support import assert_same_function


def test_logits_stay_narrow_and_the_function_the_same() -> None:
    model = flashir.model("flash", size="tiny", chunk=4, cumsum="scan")
    wide = Lowering("none").run(SetDType("bfloat16").apply(model))
    narrow = NarrowResults().apply(wide)
    assert [graph.outputs[0].type.dtype for graph in (wide, narrow)] == [DType.F32, DType.BF16]
    assert len(narrow.nodes) == len(wide.nodes) - 1
    assert_same_function(wide, narrow, {"B": 2, "T": 7})


def test_other_results_stay_as_they_are() -> None:
    graph = loads("""model @m(%x: bf16[B], %y: f32[B]) -> f32[B], f32[B], bf16[B] {
      %a = cast(%x) {dtype = f32}
      %b = add(%a, %y)
      %c = cast(%y) {dtype = bf16}
      return %a, %b, %c
    }""")
    narrow = NarrowResults().apply(graph)
    assert [str(value.type.dtype) for value in narrow.outputs] == ["bf16", "f32", "bf16"]
    assert len(narrow.nodes) == 3, "the sum still reads the cast"
    f32 = replace(graph, outputs=graph.outputs[1:])
    assert NarrowResults().apply(f32) == f32
