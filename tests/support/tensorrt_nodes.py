"""Nodes of the TensorRT plugin on the GPU emulator.

Tensors and workspace have exactly the sizes that the plugin is told or reports.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from cpu_paths import Outputs
from gpu_emulator import Change, build_emulator
from moe_calls import MoeCall, reference
from on_gpu.emulator import EMULATOR, Emulator
from on_gpu.library import CALLS, PLUGINS
from tensorrt_build import include_folder

from vmoe_export.ops.table import OPS

DATA_TYPES = {"float32": 0, "float16": 1, "int32": 3, "bfloat16": 7}  # TensorRT's DataType
STREAM = 0x5354  # any address
PARTS = ("creators", "loaded_version", "log", "plugin")


class Tensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("sizes", ctypes.c_int64 * 4),
        ("address", ctypes.c_void_p),
    )


def build_plugin(name: str = "emulated_plugin", changes: Sequence[Change] = ()) -> Emulator:
    """Build an emulator with the plugin, in which files under plugins/ may be changed.

    Without nvcc or TensorRT's headers, skip the test.
    """
    sources = [CALLS, EMULATOR / "tensorrt_calls.cc", PLUGINS / "cuda" / "op_calls.cc", *(PLUGINS / "ops").glob("*.cc")]
    sources += [PLUGINS / "tensorrt" / f"{part}.cc" for part in PARTS]
    return Emulator(build_emulator(name, sources, [f"-isystem={include_folder()}"], changes))


class Node:
    """A node with a call's inputs and settings, and with memory for its outputs."""

    def __init__(self, plugin: Emulator, call: MoeCall) -> None:
        self._plugin, self._op = plugin, call.op
        integers = {name: int(array[0]) for name, array in call.inputs.items() if array.dtype == np.int64} | call.attributes
        self._settings = (ctypes.c_int32 * 3)(*(integers[name] for name in ("capacity", "k", "bpr") if name in integers))
        self._inputs = [np.ascontiguousarray(array) for array in call.inputs.values() if array.dtype != np.int64]
        self._outputs = [np.empty_like(array) for array in reference(call)[: len(needed_outputs(call.op))]]
        self._tensors = (Tensor * (len(self._inputs) + len(self._outputs)))()
        for tensor, array in zip(self._tensors, (*self._inputs, *self._outputs), strict=True):
            tensor.type, tensor.rank, tensor.address = (
                DATA_TYPES[array.dtype.name],
                array.ndim,
                plugin.allocate(array.nbytes),
            )
            tensor.sizes[: array.ndim] = array.shape
        for tensor, array in zip(self._tensors, self._inputs, strict=False):
            plugin.library.call("copy", tensor.address, array.ctypes.data, array.nbytes)
            plugin.seal(tensor.address)

    def enqueue(self) -> None:
        self._run(None)

    def capture(self) -> int:
        """Capture the node's work instead of running it, and return the number of launches."""
        launches = ctypes.c_size_t()
        self._run(ctypes.byref(launches))
        return launches.value

    def _run(self, captured: Any) -> None:
        sizes = len(self._inputs), len(self._outputs)
        run = self._plugin.text_function("enqueue")
        failed = run(self._op.encode(), self._settings, self._tensors, *sizes, ctypes.c_void_p(STREAM), captured)
        faults = self._plugin.faults()
        assert (failed, faults) == (None, []), f"{failed}, {faults}"

    def results(self) -> Outputs:
        for tensor, array in zip(self._tensors[len(self._inputs) :], self._outputs, strict=True):
            self._plugin.library.call("copy", array.ctypes.data, tensor.address, array.nbytes)
        assert self._plugin.faults() == []
        return self._outputs


def needed_outputs(op: str) -> list[str]:
    return [value.name for value in OPS[op].outputs if not value.optional]
