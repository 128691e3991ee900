"""The tensors of one MoE layer on the card, and the kernels on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu.device import Device
from gpu.exact import BITS, Array
from gpu.library import Library
from gpu.shapes import Shape

_GUARD_BYTES = 256
_GARBAGE = 0xA5


class DeviceArray:
    """An array in the card's memory, between guards that show when a kernel writes past its ends."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> None:
        """`offset` moves it so many bytes away from the alignment that memory comes with."""
        import torch

        self._shape, self._dtype = shape, np.dtype(dtype)
        size = math.prod(shape) * self._dtype.itemsize
        begin = _GUARD_BYTES + offset
        self._whole = torch.full((begin + size + _GUARD_BYTES,), _GARBAGE, dtype=torch.uint8, device=device.torch_device)
        self._bytes = self._whole[begin : begin + size]
        self._guards = self._whole[:begin], self._whole[begin + size :]
        self.address = int(self._bytes.data_ptr()) if size else int(self._whole.data_ptr()) + begin

    def spoil(self) -> None:
        """Overwrites it with what no kernel would write."""
        self._bytes.fill_(_GARBAGE)

    def set(self, array: Array) -> None:
        """Copies an array of this shape and dtype to the card."""
        import torch

        assert (array.shape, array.dtype) == (self._shape, self._dtype)
        self._bytes.copy_(torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))

    def get(self) -> Array:
        """Copies it from the card."""
        array: Array = self._bytes.cpu().numpy().view(self._dtype).reshape(self._shape)
        return array

    def guards_hold(self) -> bool:
        """Whether nothing was written just before and behind it."""
        return all(bool((guard == _GARBAGE).all()) for guard in self._guards)

    def as_tensor(self, dtype: Any) -> Any:
        """The same memory as a torch tensor."""
        return self._bytes.view(dtype).view(self._shape)


class Problem:
    """Inputs, outputs and workspace of all four kernels for one shape."""

    def __init__(self, device: Device, kernels: Library, shape: Shape, offset: int = 0) -> None:
        """Allocates; `offset` misaligns the tensors of tokens by so many bytes."""
        self.shape, self._device, self._kernels = shape, device, kernels
        token, gate = BITS[shape.type], BITS[shape.gate_type]
        groups, tokens, choices = shape.groups, shape.tokens, shape.choices
        places = shape.experts, shape.groups * shape.capacity
        self.gates = DeviceArray(device, (groups, tokens, shape.experts), gate)
        self.x = DeviceArray(device, (groups, tokens, shape.hidden), token, offset)
        self.out = DeviceArray(device, (*places, shape.hidden), token, offset)
        self.slot = DeviceArray(device, (groups, tokens, choices), np.int32)
        self.weight = DeviceArray(device, (groups, tokens, choices), gate)
        self.src = DeviceArray(device, places, np.int32)
        self.buf = DeviceArray(device, (*places, shape.hidden), token, offset)
        self.y = DeviceArray(device, (groups, tokens, shape.hidden), token, offset)
        self.workspace = DeviceArray(device, (kernels.workspace_bytes(shape),), np.uint8)

    @property
    def outputs(self) -> tuple[DeviceArray, ...]:
        """What kernels write, workspace included."""
        return self.slot, self.weight, self.src, self.buf, self.y, self.workspace

    def run(self, kernel: str) -> None:
        """Puts a kernel, by its name in `gpu.floors.KERNELS`, on the current stream."""
        shape, stream, calls = self.shape, self._device.stream(), self._kernels
        slot, weight, workspace = self.slot.address, self.weight.address, self.workspace.address
        if kernel == "Route":
            calls.route(shape, self.gates.address, slot, weight, self.src.address, workspace, stream)
        elif kernel == "Dispatch":
            calls.dispatch(shape, self.x.address, self.src.address, self.buf.address, stream)
        elif kernel == "RouteDispatch":
            calls.route_dispatch(
                shape, self.gates.address, self.x.address, slot, weight, self.buf.address, workspace, stream
            )
        else:
            calls.combine(shape, self.out.address, slot, weight, self.y.address, stream)

    def count_launches(self, kernel: str) -> int:
        """Graph nodes that a kernel is; an error where it allocates or synchronises. Not on the default stream.

        It runs once before, so that its code is loaded.
        """
        self.run(kernel)
        self._kernels.begin_count(self._device.stream())
        try:
            self.run(kernel)
        finally:
            nodes = self._kernels.end_count(self._device.stream())
        return nodes
