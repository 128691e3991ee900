"""The tensors of one MoE layer on the card, and the kernels on them."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from gpu.device import Device
from gpu.exact import TORCH_TYPES
from gpu.library import Library
from gpu.shapes import Shape

_GUARD_BYTES = 256
_GARBAGE = 0xA5


class DeviceArray:
    """An array in the card's memory, between guards that show when a kernel writes past its ends."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: torch.dtype, offset: int = 0) -> None:
        """`offset` moves it so many bytes away from the alignment that memory comes with."""
        self._shape, self._dtype = shape, dtype
        size, begin = math.prod(shape) * dtype.itemsize, _GUARD_BYTES + offset
        self._whole = torch.full((begin + size + _GUARD_BYTES,), _GARBAGE, dtype=torch.uint8, device=device.torch_device)
        self._bytes = self._whole[begin : begin + size]
        self._guards = self._whole[:begin], self._whole[begin + size :]
        self.address = int(self._whole.data_ptr()) + begin

    def spoil(self) -> None:
        """Overwrites it with what no kernel would write."""
        self._bytes.fill_(_GARBAGE)

    def plant(self, *, behind: bool) -> None:
        """Turns a bit of its first byte, or of the first one behind it: a fault that must be seen."""
        (self._guards[1] if behind else self._bytes)[0] ^= 1

    def set(self, tensor: Tensor) -> None:
        """Copies a tensor of this shape and dtype to the card."""
        assert (tensor.shape, tensor.dtype) == (self._shape, self._dtype)
        self._bytes.copy_(tensor.reshape(-1).view(torch.uint8))

    def get(self) -> Tensor:
        """Copies it from the card."""
        return self._bytes.to("cpu", copy=True).view(self._dtype).view(self._shape)

    def guards_hold(self) -> bool:
        """Whether nothing was written just before and behind it."""
        return all(bool((guard == _GARBAGE).all()) for guard in self._guards)

    def as_tensor(self) -> Tensor:
        """The same memory as a tensor."""
        return self._bytes.view(self._dtype).view(self._shape)


class Problem:
    """Inputs, outputs and workspace of all four kernels for one shape.

    Attributes:
        arrays: `gates` [G,S,E], `x` [G,S,D], `out` [E,M,D]; `slot` and `weight` [G,S,K], `src` [E,M], `buf` [E,M,D] and
            `y` [G,S,D], which kernels write; `workspace`.
    """

    def __init__(self, device: Device, kernels: Library, shape: Shape, offset: int = 0) -> None:
        """Allocates; `offset` misaligns the tensors of tokens by so many bytes."""
        self.shape, self._device, self._kernels = shape, device, kernels
        token, gate = TORCH_TYPES[shape.type], TORCH_TYPES[shape.gate_type]
        tokens, places = (shape.groups, shape.tokens), (shape.experts, shape.groups * shape.capacity)
        self.arrays = {
            "gates": DeviceArray(device, (*tokens, shape.experts), gate),
            "x": DeviceArray(device, (*tokens, shape.hidden), token, offset),
            "out": DeviceArray(device, (*places, shape.hidden), token, offset),
            "slot": DeviceArray(device, (*tokens, shape.choices), torch.int32),
            "weight": DeviceArray(device, (*tokens, shape.choices), gate),
            "src": DeviceArray(device, places, torch.int32),
            "buf": DeviceArray(device, (*places, shape.hidden), token, offset),
            "y": DeviceArray(device, (*tokens, shape.hidden), token, offset),
            "workspace": DeviceArray(device, (kernels.workspace_bytes(shape),), torch.uint8),
        }
        self._at = {name: array.address for name, array in self.arrays.items()}

    def run(self, *kernels: str) -> None:
        """Puts kernels, by their names in `gpu.floors.KERNELS`, on the current stream."""
        for kernel in kernels:
            self._kernels.launch(kernel, self.shape, self._at, self._device.stream())

    def count_launches(self, kernel: str) -> int:
        """Graph nodes that a kernel is; an error where it allocates or synchronises. Not on the default stream.

        It runs once before, so that its code is loaded.
        """
        self.run(kernel)
        return self._kernels.count_nodes(self._device.stream(), functools.partial(self.run, kernel))
