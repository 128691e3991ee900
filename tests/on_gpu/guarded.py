"""The tensors of a layer, surrounded by guard bytes.

The guard bytes reveal kernels that write past the ends of tensors.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import torch
from torch import Tensor

from on_gpu.device import Device
from on_gpu.library import Library
from on_gpu.problem import Problem
from on_gpu.shape import Shape

_GUARD_BYTES = 256
_GARBAGE = 0xA5


class GuardedProblem(Problem):
    """A problem with guard bytes before and after each tensor.

    Tensors with token features (`x`, `out`, `buf` and `y`) are misaligned by `offset` bytes.
    """

    def __init__(self, device: Device, kernels: Library, shape: Shape, offset: int = 0) -> None:
        self._offset, self._guards = offset, dict[str, tuple[Tensor, Tensor]]()
        super().__init__(device, kernels, shape)

    def allocate(self, name: str, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        begin = _GUARD_BYTES + (self._offset if name in ("x", "out", "buf", "y") else 0)
        end = begin + math.prod(sizes) * dtype.itemsize
        whole = torch.full((end + _GUARD_BYTES,), _GARBAGE, dtype=torch.uint8, device=self.device.torch_device)
        self._guards[name] = whole[:begin], whole[end:]
        return whole[begin:end].view(dtype).view(sizes)

    def set(self, inputs: dict[str, Tensor]) -> None:
        """Copy `inputs` to the GPU, and fill all other tensors with garbage. Kernels write those tensors."""
        for name, tensor in self.tensors.items():
            if name in inputs:
                assert (tensor.shape, tensor.dtype) == (inputs[name].shape, inputs[name].dtype)
                _bytes(tensor).copy_(_bytes(inputs[name]))
            else:
                _bytes(tensor).fill_(_GARBAGE)

    def get(self, name: str) -> Tensor:
        """Copy a tensor from the GPU."""
        return self.tensors[name].to("cpu", copy=True)

    def guards_hold(self, name: str) -> bool:
        """Return whether the guard bytes just before and after a tensor are unchanged."""
        return all(bool((guard == _GARBAGE).all()) for guard in self._guards[name])

    def count_launches(self, kernel: str) -> int:
        """Return the number of CUDA graph nodes that a call of a kernel adds.

        The current stream must not be the default stream. The kernel runs once before it is counted, so that its code is
        loaded.

        Raises:
            DeviceError: the kernel allocates or synchronizes.
        """
        self.run(kernel)
        return count_nodes(self.kernels, self.device.stream(), lambda: self.run(kernel))


def count_nodes(kernels: Library, stream: int, work: Callable[[], None]) -> int:
    """Return the number of CUDA graph nodes that `work` puts on the stream. The GPU does not run the work."""
    nodes = ctypes.c_size_t()
    kernels.call("begin_count", stream)
    try:
        work()
    finally:
        kernels.call("end_count", stream, ctypes.byref(nodes))
    return nodes.value


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
