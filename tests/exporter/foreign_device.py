"""A fake device in the CPU's memory.

It records operations that would fail on a real device, or that would wait for one. The device's tensors claim to be on
`meta`, the device where torch expects no data, but they do have data. So code for a GPU can run without a GPU, and its
results can be compared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"
_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default)
_LOOKS_AT_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class ForeignTensor(Tensor):
    """A tensor on the fake device. `data_on_cpu` is its data."""

    data_on_cpu: Tensor

    @staticmethod
    def __new__(cls, data: Tensor) -> ForeignTensor:
        made: ForeignTensor = Tensor._make_wrapper_subclass(
            cls,
            data.shape,
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=NAME,
        )
        made.data_on_cpu = data
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} is called outside of a ForeignDevice")


class ForeignDevice(TorchDispatchMode):
    """A context in which `device="meta"` stands in for a real device.

    Attributes:
        faults: operations that would fail on a real device or make the caller wait for it, in call order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        foreign = [tensor for tensor in tensors if isinstance(tensor, ForeignTensor)]
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        if foreign and target is not None and target != NAME:
            self.faults.append(f"{function} copies to {target}")
        elif len(foreign) < len(tensors) and (foreign or target == NAME):
            if any(tensor.dim() for tensor in tensors if not isinstance(tensor, ForeignTensor)):
                self.faults.append(f"{function} mixes the device with the CPU")
        elif foreign and _looks_at_data(function, args):
            self.faults.append(f"{function} waits for the device")
        if target == NAME:
            kwargs["device"] = "cpu"
        found = function(*tree_map(_data, args), **tree_map(_data, kwargs))
        if target not in (None, NAME) or not (foreign or target == NAME):
            return found
        same = {id(tensor.data_on_cpu): tensor for tensor in foreign}
        return tree_map(lambda value: same[id(value)] if id(value) in same else _there(value), found)


def _looks_at_data(function: Any, args: Any) -> bool:
    """Return whether this call makes the CPU wait for data from the device.

    This is true if the CPU needs the value of a result or the size of a result.
    """
    if function in _INDEXING:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return bool(_LOOKS_AT_DATA & set(function.tags))


def _data(value: Any) -> Any:
    return value.data_on_cpu if isinstance(value, ForeignTensor) else value


def _there(value: Any) -> Any:
    return ForeignTensor(value) if isinstance(value, Tensor) else value


def to_device(values: Any) -> Any:
    """Move tensors to the fake device, including tensors inside containers. Leave None and numbers unchanged."""
    return tree_map(_there, values)


def from_device(values: Any) -> Any:
    """Move tensors from the fake device back to the CPU."""
    return tree_map(_data, values)
