"""ONNX Runtime against the float64 interpreter: the settings of flash and gau that are not the paper's main model."""

from __future__ import annotations

from typing import Any

import flashir
from flashir import interpret
from tests.backends.onnx.support import SMALL, relative_error, session, tokens, unit
from tests.cover import in_turn

TOLERANCE = 1e-4
FLASH: tuple[dict[str, Any], ...] = (
    {"overlap": True},
    {"overlap": True, "chunk": 256, "use_global": False},
    {"summaries": "attend"},
    {"summaries": "attend", "use_local": False, "segments": True},
    {"rel_bias": "t5", "token_shift": True},
    {"rope_dims": 4, "rope_interleaved": True, "head_order": "quad_q lin_q quad_k lin_k"},
    {"overlap": True, "summaries": "attend", "segments": True, "rel_bias": "t5", "lin_norm": "none"},
)
GAU: tuple[dict[str, Any], ...] = (
    {"attention": "softmax", "qk_scale": "sqrt_key"},
    {"attention": "laplace"},
    {"heads": 4},
    {"gating": False},
    {"attention": "softmax", "heads": 2, "gating": False, "rel_bias": "t5", "token_shift": True, "rope_dims": 2},
)
TASKS = ("lm", "mlm")


@in_turn(settings=FLASH, task=TASKS)
def test_flash(settings: dict[str, Any], task: str) -> None:
    check("flash", (0, 1, 4, 5, 14), task=task, **{"chunk": 4, "cumsum": "native", **settings})


@in_turn(settings=GAU, task=TASKS)
def test_gau(settings: dict[str, Any], task: str) -> None:
    check("flash-quad", (0, 1, 7, 20), task=task, max_len=20, **settings)


def check(name: str, lengths: tuple[int, ...], **settings: Any) -> None:
    model = flashir.model(name, **SMALL, **settings)
    params = unit(model)
    run = session(model, params)
    for length in lengths:
        ids = tokens(model, 2, length)
        assert relative_error(run(ids), interpret(model, params, *ids)[0]) < TOLERANCE, length
