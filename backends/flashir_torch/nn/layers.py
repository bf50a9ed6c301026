"""The layers, one per op."""

from __future__ import annotations

from flashir.execution.layers import LAYERS
from flashir_torch.nn.layer import Layer


class FLASH(Layer):
    """The gated attention unit with mixed chunk attention (Code 8): linear in the length."""

    op = LAYERS["FLASH"]


class GAU(Layer):
    """The gated attention unit with quadratic attention (Code 6)."""

    op = LAYERS["GAU"]


class MixedChunkAttention(Layer):
    """Multi-head mixed chunk attention, as in MC-TFM++ (4.3)."""

    op = LAYERS["MixedChunkAttention"]


class Attention(Layer):
    """Multi-head softmax attention with rotary positions."""

    op = LAYERS["Attention"]


class Performer(Layer):
    """Token-level linear attention with the ReLU kernel."""

    op = LAYERS["Performer"]


class Combiner(Layer):
    """Softmax attention to its own chunk and to summaries of the others (Appendix A)."""

    op = LAYERS["Combiner"]


class MLP(Layer):
    """Two dense layers with a GELU between them, per token."""

    op = LAYERS["MLP"]


class GLU(Layer):
    """The gated linear unit, per token."""

    op = LAYERS["GLU"]
