"""What a backend may provide for programs that run its exports as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from flashir.backends.decoding import Extending
from flashir.backends.protocols import DecoderExporter, StatefulBackend
from flashir.ir import TensorType


@runtime_checkable
class Hosting(DecoderExporter, Protocol):
    """An exporter whose decoders other programs run as they are."""

    hosts: ClassVar[tuple[str, ...]]
    """The names of those programs."""

    def for_host(self, host: str) -> Hosting:
        """This backend with decoders for one of them."""
        ...

    def layout(self, types: dict[str, TensorType]) -> dict[str, TensorType]:
        """The types of states by name -> those that the program wants. Raises TargetError if it cannot hold them."""
        ...

    def host_files(self, decoding: Extending, ends: Sequence[int], piece: int) -> Mapping[str, bytes]:
        """The further files that the program reads, by name.

        Args:
            decoding: the decoder; `max_len` is the longest sequence.
            ends: the tokens that end a text.
            piece: the number of tokens that the decoder reads at once.

        Raises:
            SettingError: the program needs to know more.
        """
        ...


@runtime_checkable
class HubBackend(StatefulBackend, Protocol):
    """A backend with code that the library transformers loads from a folder."""

    @property
    def hub_code(self) -> str:
        """The module `modeling_flashir`, which reads the text of the model from the config."""
        ...
