"""Memory of a GPU, through the kernels' library."""

from __future__ import annotations

import ctypes

from on_gpu.kernel_call import GARBAGE
from on_gpu.library import Library

_GUARD_BYTES = 256


class GpuMemory:
    """Memory in blocks of exactly the requested size, which contain anything at first."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._blocks: dict[int, int] = {}  # addresses of the blocks, by the addresses that were returned

    def allocate(self, size: int, misalignment: int = 0) -> int:
        block = ctypes.c_void_p()
        self._library.call("allocate", ctypes.byref(block), misalignment + size)
        address = (block.value or 0) + misalignment
        self._blocks[address] = block.value or 0
        return address

    def seal(self, address: int) -> None:
        pass

    def release(self, address: int) -> None:
        self._library.call("release", self._blocks.pop(address))


class GuardedMemory(GpuMemory):
    """Memory that is filled with garbage, with guard bytes before and after it."""

    def __init__(self, library: Library) -> None:
        super().__init__(library)
        self._faults: list[str] = []
        self._sizes: dict[int, int] = {}

    def allocate(self, size: int, misalignment: int = 0) -> int:
        address = super().allocate(size + 2 * _GUARD_BYTES, misalignment) + _GUARD_BYTES
        self._sizes[address] = size
        garbage = GARBAGE * (size + 2 * _GUARD_BYTES)
        self._library.call("copy", address - _GUARD_BYTES, garbage, len(garbage))
        return address

    def release(self, address: int) -> None:
        size = self._sizes.pop(address)
        around = self._read(address - _GUARD_BYTES) + self._read(address + size)
        if around != GARBAGE * (2 * _GUARD_BYTES):
            self._faults.append(f"the bytes around a tensor of {size:,} bytes were written")
        super().release(address - _GUARD_BYTES)

    def take_faults(self) -> list[str]:
        """Return messages about guard bytes that were written, for the memory released since the last call."""
        taken, self._faults = self._faults, []
        return taken

    def _read(self, address: int) -> bytes:
        data = ctypes.create_string_buffer(_GUARD_BYTES)
        self._library.call("copy", data, address, _GUARD_BYTES)
        return data.raw
