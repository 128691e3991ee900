"""The tensors of one MoE layer on the GPU, and the kernels on them."""

from __future__ import annotations

import torch
from on_gpu.device import Device
from on_gpu.library import Library
from on_gpu.shape import Shape, Type

TORCH_TYPES: dict[Type, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Problem:
    """Inputs, outputs and workspace of all four kernels, for one shape.

    Attributes:
        tensors: the tensors by name. Inputs are `gates` [G,S,E], `x` [G,S,D] and `out` [E,M,D]. Kernels write `slot` and
            `weight` [G,S,K], `src` [E,M], `buf` [E,M,D] and `y` [G,S,D]. `workspace` is memory that kernels use internally.
    """

    def __init__(self, device: Device, kernels: Library, shape: Shape) -> None:
        self.shape, self.device, self.kernels = shape, device, kernels
        token = TORCH_TYPES[shape.type]
        tokens, slots = (shape.groups, shape.tokens), (shape.experts, shape.groups * shape.capacity)
        sizes = {
            "gates": ((*tokens, shape.experts), torch.float32),
            "x": ((*tokens, shape.hidden), token),
            "out": ((*slots, shape.hidden), token),
            "slot": ((*tokens, shape.choices), torch.int32),
            "weight": ((*tokens, shape.choices), torch.float32),
            "src": (slots, torch.int32),
            "buf": ((*slots, shape.hidden), token),
            "y": ((*tokens, shape.hidden), token),
            "workspace": ((kernels.workspace_bytes(shape),), torch.uint8),
        }
        on = device.torch_device
        self.tensors = {name: torch.empty(size, dtype=type, device=on) for name, (size, type) in sizes.items()}

    def run(self, *kernels: str) -> None:
        """Launch kernels on the current stream. Their names are those in `library.KERNELS`."""
        at = {name: tensor.data_ptr() for name, tensor in self.tensors.items()}
        for kernel in kernels:
            self.kernels.launch(kernel, self.shape, at, self.device.stream())
