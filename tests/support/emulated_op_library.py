"""The op library for ONNX Runtime's CUDA provider on the GPU emulator, as a library for the CPU provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from gpu_emulator import Change, build_emulator
from on_gpu.emulator import EMULATOR
from on_gpu.library import PLUGINS

from vmoe_runtime.installation import oldest_supported

HEADERS = Path("/usr/include/onnxruntime")
PARTS = ("cuda_ops", "kernel_info", "registration")


def build_op_library(name: str = "emulated_ops", changes: Sequence[Change] = ()) -> Path:
    """Build the library, in which files under plugins/ may be changed.

    Without nvcc or ONNX Runtime's headers, skip the test.
    """
    if not (HEADERS / "onnxruntime_c_api.h").is_file():
        pytest.skip(f"to build the op library, this machine lacks {HEADERS}/onnxruntime_c_api.h")
    sources = [EMULATOR / "op_library.cc", PLUGINS / "cuda" / "op_calls.cc", *sorted((PLUGINS / "ops").glob("*.cc"))]
    sources += [PLUGINS / "onnxruntime" / f"{part}.cc" for part in PARTS]
    oldest = oldest_supported("onnxruntime").partition(".")[2]
    flags = [f"-isystem={HEADERS}", "-DVMOE_ADAPTER", f"-DVMOE_OLDEST_ONNXRUNTIME={oldest}"]
    return build_emulator(name, sources, [*flags, "-Xcompiler=-fvisibility=hidden"], changes)
