"""A module of a model that continues sequences, with the parameters of the module for whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flashir.backends.decoding import extending
from flashir.backends.lowering import Lowering
from flashir.generation.generate import piece_of
from flashir.transforms.set_dtype import retyped
from flashir_torch.emit import module
from flashir_torch.names import parameter_name
from flashir_torch.nn.model import Model
from flashir_torch.nn.place import Place
from flashir_torch.types import TYPES


class Extend:
    """`extend(ids [b, t], positions [b, t], states) -> logits [b, 1, vocab], states`; see `flashir.extending`.

    It shares the parameters of the module, as they are when it is made: make it again after `.to`.

    Args:
        net: a module of a causal model.
        max_len: the number of tokens that caches of full attention hold.
    """

    def __init__(self, net: Model, max_len: int | None = None) -> None:
        place = Place.of(net, "torch:cpu")
        own = {parameter_name(path): parameter for path, parameter in net.named_parameters()}
        extension = extending(retyped(net.model, place.dtype), max_len=max_len).lowered(Lowering.of(place.target))
        self._code = module(extension.extend, own)
        self._piece = piece_of(net.model)
        self._ids, self._positions, *self._states = (value.type for value in extension.extend.inputs)

    def __call__(self, ids: Tensor, positions: Tensor, states: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        """Read tokens, long rows piece by piece. Without states, sequences begin."""
        kept = list(states) or self._zeros(ids)
        logits = None
        for start in range(0, ids.shape[1], self._piece):
            part = slice(start, start + self._piece)
            places = positions[:, part].to(TYPES[self._positions.dtype])
            read, *kept = self._code(ids[:, part].to(TYPES[self._ids.dtype]), places, *kept)
            logits = read if logits is None else torch.where((places[:, :1] < 0)[..., None], logits, read)
        assert logits is not None
        return logits, kept

    def _zeros(self, ids: Tensor) -> list[Tensor]:
        shapes = [[n if isinstance(n, int) else len(ids) for n in type_.shape] for type_ in self._states]
        pairs = zip(shapes, self._states, strict=True)
        return [torch.zeros(shape, dtype=TYPES[type_.dtype], device=ids.device) for shape, type_ in pairs]
