"""Finds the GPU that this process can use. It calls NVIDIA's driver, so it needs no package and no CUDA toolkit."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime.errors import UnavailableError
from vmoe_runtime.op_library import load_failure

_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """The first GPU that the process sees. The environment variable CUDA_VISIBLE_DEVICES sets which GPUs it sees.

    Attributes:
        name: name of the GPU, such as "NVIDIA H100 80GB HBM3".
        compute_capability: compute capability of the GPU, such as "9.0".
        cuda: (major, minor) of the newest CUDA version that the driver supports.
    """

    name: str
    compute_capability: str
    cuda: tuple[int, int]

    def check_driver(self, part: str, cuda: tuple[int, ...]) -> None:
        """Raise UnavailableError if the driver is too old for `part`.

        Args:
            part: the program or library that needs the driver, as named in the error message.
            cuda: the CUDA version that the driver must support, (major,) or (major, minor).
        """
        if self.cuda < cuda:
            raise UnavailableError(
                f"{part} needs a driver for CUDA {'.'.join(map(str, cuda))}, and the one on this machine is for CUDA "
                f"{'.'.join(map(str, self.cuda))}; update the driver"
            )


def has_driver() -> bool:
    """Return whether an NVIDIA driver is installed.

    Unlike `find_gpu`, this function doesn't start the driver. So a process that is forked later can still use CUDA.
    """
    return load_failure(Path(_DRIVER)) is None


def find_gpu() -> Gpu:
    """Return the GPU to run on.

    Raises:
        UnavailableError: there is no driver, or the driver finds no GPU.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise UnavailableError(f"there is no NVIDIA driver on this machine ({error})") from None
    _call(driver, "cuInit", 0)
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise UnavailableError("the NVIDIA driver finds no GPU")
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    name = ctypes.create_string_buffer(256)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return Gpu(
        name.value.decode(errors="replace"), ".".join(capability), (version.value // 1000, version.value % 1000 // 10)
    )


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    code = driver[function](*arguments)
    if code == 0:
        return
    text = ctypes.c_char_p()
    driver["cuGetErrorString"](code, ctypes.byref(text))
    reason = text.value.decode(errors="replace") if text.value else "unknown"
    raise UnavailableError(f"the NVIDIA driver can't use a GPU: {reason} (error {code} of {function})")
