"""A call of a GPU kernel, with its inputs: where it runs, and how its outputs are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from on_gpu.library import Library
from on_gpu.shape import Shape

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, Array]
Sizes = tuple[int, ...]

_INFINITY = {"fp32": 0x7F800000, "fp16": 0x7C00, "bf16": 0x7F80}
_COMPUTED = ("y", "gates")  # outputs of arithmetic; all other outputs are copies
GARBAGE = b"\xa5"
"""The byte that fills memory whose contents a kernel must not use."""


class Memory(Protocol):
    """Device memory, of the emulator or of a GPU."""

    def allocate(self, size: int, misalignment: int = 0) -> int:
        """Return the address of `size` bytes. Its remainder modulo 256 is `misalignment`."""

    def seal(self, address: int) -> None:
        """Make the memory an input, which no kernel may write."""

    def release(self, address: int) -> None:
        """Release the memory at an address from `allocate`."""


@dataclass(frozen=True)
class KernelCall:
    """A call of one function of the library.

    Attributes:
        op: name of the function.
        shape: the sizes, for messages and references.
        what: further facts, for messages.
        inputs: input tensors by name.
        outputs: shapes and dtypes of output tensors by name.
        arguments: the function's arguments. A string is the name of a tensor.
        workspace: size of the workspace in bytes.
        misaligned: number of bytes by which a tensor is misaligned, by name. Other tensors are aligned to 256 bytes.
        processors: number of multiprocessors of the emulated GPU.
    """

    op: str
    shape: Shape
    what: str
    inputs: Tensors
    outputs: dict[str, tuple[Sizes, np.dtype[Any]]]
    arguments: tuple[Any, ...]
    workspace: int = 0
    misaligned: Mapping[str, int] = field(default_factory=dict)
    processors: int = 2

    def __str__(self) -> str:
        return f"{self.op} {self.shape}, {self.what}"

    def run(self, library: Library, memory: Memory) -> Tensors:
        """Run the call and return its tensors by name, as they are afterwards."""
        placed = PlacedCall(self, library, memory)
        placed.launch()
        library.call("synchronize")
        tensors = placed.tensors()
        placed.release()
        return tensors

    def shuffled(self, rng: np.random.Generator) -> KernelCall:
        """Return the same call with the elements of each input in another order."""
        inputs = {name: rng.permutation(tensor.reshape(-1)).reshape(tensor.shape) for name, tensor in self.inputs.items()}
        return replace(self, inputs=inputs, what=f"{self.what}, shuffled")

    def differences(self, found: Mapping[str, Array], wanted: Mapping[str, Array]) -> list[str]:
        """Return a message for each output whose bits differ, and for each input that was written.

        The bits of a NaN that arithmetic makes are not compared.
        """
        wrong = []
        for name in (*self.outputs, *self.inputs):
            tensors = found[name], wanted[name] if name in self.outputs else self.inputs[name]
            if len({(tensor.shape, tensor.itemsize) for tensor in tensors}) > 1:
                wrong.append(
                    f"{name} has shape {tensors[0].shape} of {tensors[0].dtype} instead of "
                    f"{tensors[1].shape} of {tensors[1].dtype}"
                )
                continue
            got, right = (tensor.view(f"u{tensor.itemsize}") for tensor in tensors)
            differs = got != right
            if name in self.outputs and name in _COMPUTED:
                infinity = _INFINITY[self.shape.type if name == "y" else "fp32"]
                sign = np.array(1 << (8 * got.itemsize - 1), got.dtype)
                differs &= ((got & ~sign) <= infinity) | ((right & ~sign) <= infinity)
            if differs.any():
                place = tuple(map(int, np.argwhere(differs)[0]))
                bits = f"{int(got[place]):#x} instead of {int(right[place]):#x}"
                wrong.append(f"{name} differs in {int(differs.sum())} of {differs.size} elements, first at {place}: {bits}")
        return wrong


class PlacedCall:
    """A call whose tensors are in device memory."""

    def __init__(self, call: KernelCall, library: Library, memory: Memory) -> None:
        self._call, self._library, self._memory = call, library, memory
        self._at = dict[str, int]()
        sizes = {"workspace": call.workspace} | {name: tensor.nbytes for name, tensor in call.inputs.items()}
        sizes |= {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in call.outputs.items()}
        for name, size in sizes.items():
            self._at[name] = memory.allocate(size, call.misaligned.get(name, 0))
        self._to_refill = {name: size for name, size in sizes.items() if name not in call.inputs}
        self._copy(call.inputs)

    def set(self, inputs: Tensors) -> None:
        """Prepare the next launch: copy inputs of the same sizes into the memory, and fill the rest of it with garbage."""
        for name, size in self._to_refill.items():
            self._library.call("copy", self._at[name], GARBAGE * size, size)
        self._copy(inputs)

    def _copy(self, inputs: Tensors) -> None:
        for name, tensor in inputs.items():
            self._library.call("copy", self._at[name], tensor.ctypes.data, tensor.nbytes)
            self._memory.seal(self._at[name])

    def launch(self, stream: int = 0) -> None:
        """Put the call on a stream."""
        arguments = (self._at[word] if isinstance(word, str) else word for word in self._call.arguments)
        self._library.call(self._call.op, *arguments, stream)

    def tensors(self) -> Tensors:
        """Copy the inputs and outputs from the memory."""
        results = {name: np.empty(*output) for name, output in self._call.outputs.items()}
        results |= {name: np.empty_like(tensor) for name, tensor in self._call.inputs.items()}
        for name, result in results.items():
            self._library.call("copy", result.ctypes.data, self._at[name], result.nbytes)
        return results

    def release(self) -> None:
        for address in self._at.values():
            self._memory.release(address)
