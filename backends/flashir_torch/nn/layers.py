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
    """Mixed chunk attention in heads, as in MC-TFM++ (4.3)."""

    op = LAYERS["MixedChunkAttention"]


class Attention(Layer):
    """Softmax attention in heads, with rotary positions."""

    op = LAYERS["Attention"]


class Performer(Layer):
    """Linear attention with the ReLU kernel, token by token."""

    op = LAYERS["Performer"]


class Combiner(Layer):
    """Softmax over the own chunk and summaries of the others (Appendix A)."""

    op = LAYERS["Combiner"]


class MLP(Layer):
    """Two dense layers with a GELU between them; each token by itself."""

    op = LAYERS["MLP"]


class GLU(Layer):
    """Gated linear units; each token by itself."""

    op = LAYERS["GLU"]
