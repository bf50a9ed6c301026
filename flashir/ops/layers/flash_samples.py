"""Cases for the generated tests of flash: its settings, with segments and documents, causal and bidirectional."""

from __future__ import annotations

from typing import Any

from flashir.ir.op import Sample, sample

_SETTINGS: tuple[dict[str, Any], ...] = (
    {"overlap": True},
    {"overlap": True, "use_global": False, "rel_bias": "t5"},
    {"overlap": True, "chunk": 300},
    {"summaries": "attend"},
    {"summaries": "attend", "use_local": False, "lin_norm": "none"},
    {"head_order": "quad_q lin_q quad_k lin_k", "token_shift": True, "rope_dims": 2, "rope_interleaved": True},
    {"attention": "softmax", "norm": "scale_norm", "norm_eps": 0.1, "norm_clamp": True},
)
_BOTH_WAYS: tuple[dict[str, Any], ...] = (
    {"lin_norm": "length", "attention": "laplace", "norm": "none"},
    {"lin_norm": "length", "reduce_groups": False, "residual": False},
    {"lin_norm": "chunk", "reduce_groups": False, "attention": "softmax", "overlap": True},
    {"reduce_groups": False, "use_local": False, "rope_dims": 0, "expanded": 7},
)


def flash_samples() -> tuple[Sample, ...]:
    """All cases."""
    small: dict[str, Any] = {"key_dim": 4, "chunk": 3, "cumsum": "native"}
    return (
        sample("f32[2, 7, 4]", **small),
        sample("f32[2, 7, 4]", "i32[2, 7]", **small),
        sample("f32[2, 7, 4]", "i32[2, 7]", **{**small, "causal": False, "lin_norm": "none", "norm": "scale_norm"}),
        sample("f32[1, 6, 4]", **{**small, "cumsum": "scan", "lin_norm": "chunk", "qk_scale": "none"}),
        sample("f32[1, 5, 4]", **{**small, "cumsum": "matmul", "causal": False, "qk_scale": "sqrt_key"}),
        sample("f32[1, 5, 4]", **{**small, "use_global": False, "qk_scale": "max_len", "max_len": 16}),
        sample("f32[1, 5, 4]", "i32[1, 5]", **{**small, "use_local": False}),
        sample("f32[1, 2, 4]", **{**small, "chunk": 512, "expansion": 1}),
        sample("f32[1, 0, 4]", **small),
        *(
            sample("f32[2, 8, 4]", *segments, **{**small, **setting}, causal=causal)
            for setting in _SETTINGS
            for segments in ((), ("i32[2, 8]",))
            for causal in (True, False)
        ),
        *(
            sample("f32[2, 8, 4]", segments, "bool[2, 8]", **{**small, **setting}, causal=causal)
            for setting in ({}, {"use_global": False}, {"use_local": False}, *_SETTINGS)
            for segments in (None, "i32[2, 8]")
            for causal in (True, False)
        ),
        *(
            sample("f32[2, 7, 4]", None, documents, **{**small, **setting}, causal=False)
            for setting in _BOTH_WAYS
            for documents in (None, "bool[2, 7]")
        ),
        sample("f32[1, 0, 4]", **small, overlap=True, summaries="attend", rel_bias="t5"),
        sample("f32[1, 7, 4]", **small, attention="softmax", summaries="attend", overlap=True, causal=False),
    )
