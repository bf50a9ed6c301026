"""A CUDA card that need not be there: what Triton and Inductor ask before they compile for it, and recorded launches.

Kernels are compiled or counted. Pretending changes PyTorch for the whole process, so a command does it,
and no library.
"""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from flashir_torch.kernels import bodies

Properties = namedtuple(
    "Properties",
    "name major minor multi_processor_count total_memory max_threads_per_multi_processor regs_per_multiprocessor "
    "warp_size shared_memory_per_block shared_memory_per_block_optin L2_cache_size max_threads_per_block gcnArchName",
)
H100 = Properties(
    "NVIDIA H100 80GB HBM3", 9, 0, 132, 80 * 10**9, 2048, 65536, 32, 49152, 232448, 50 * 2**20, 1024, ""
)  # fmt: skip


class Card:
    """As much of Triton's driver as its compiler uses.

    Args:
        capability: the compute capability: 80 for 8.0.
    """

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        """The first card."""
        return 0

    def get_current_stream(self, _device: int) -> int:
        """The default stream."""
        return 0

    def get_device_interface(self) -> Any:
        """The module of PyTorch for CUDA."""
        return torch.cuda


@dataclass(frozen=True)
class Launch:
    """One kernel with its grid and arguments."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the kernel."""
        return str(self.kernel.__name__)

    @property
    def bytes(self) -> int:
        """The bytes of its tensors: each is read or written once."""
        tensors = {id(arg): arg for arg in self.args if isinstance(arg, Tensor)}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def again(self) -> None:
        """Run it on the same tensors."""
        self.kernel[self.grid](*self.args, **self.options)


@contextmanager
def recorded(*, run: bool = False) -> Iterator[list[Launch]]:
    """Record the launches of kernels, and run them if `run`; else their results are tensors without content."""
    kind, launches = type(bodies.attend), list[Launch]()
    before = kind.__getitem__

    def record(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            launches.append(Launch(kernel, grid, args, options))
            if run:
                before(kernel, grid)(*args, **options)

        return launch

    kind.__getitem__ = record
    try:
        yield launches
    finally:
        kind.__getitem__ = before


def pretend(capability: int = 90) -> None:
    """Let Triton compile for a card, and Inductor plan its kernels for an H100, for the rest of the process."""
    driver.set_active(Card(capability))
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda *_: (H100.major, H100.minor)
    torch.cuda.get_device_properties = lambda *_: H100  # type: ignore[assignment]
    torch.cuda._lazy_init = lambda: None
    torch.version.cuda = "13.0"
    _interface()
    for name in ("torch._inductor.compile_fx", "torch._inductor.scheduler"):
        import_module(name)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("torch._inductor", "torch.utils._triton")):
            for name in {"has_triton", "has_triton_package"} & vars(module).keys():
                setattr(module, name, lambda *_: True)


def _interface() -> None:
    """Register what Inductor asks of a device."""
    from torch._dynamo import device_interface

    answers = {
        "is_available": True,
        "get_compute_capability": 10 * H100.major + H100.minor,
        "current_device": 0,
        "get_device_properties": H100,
        "get_raw_stream": 0,
        "is_triton_capable": True,
        "raise_if_triton_unavailable": None,
        "is_bf16_supported": True,
    }
    known = {name: staticmethod(lambda *_, answer=answer, **__: answer) for name, answer in answers.items()}
    worker = type("Worker", (device_interface.CudaInterface.Worker,), known)
    interface = type("Interface", (device_interface.CudaInterface,), {**known, "Worker": worker})
    for name in ("cuda", "cuda:0"):
        device_interface.register_interface_for_device(name, interface)
