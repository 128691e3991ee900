"""Check the backends `cuda` and `cuda-fixed` in ONNX Runtime's own CUDA provider.

cuda_provider.py lets the provider load without a GPU. The backends load their graphs, but no kernel runs.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path

import cuda_provider
import fake_gpu
import pytest
import sdk_build
from test_gpu_backends import GPU_WHEEL
from wheels import wheel_folder

import vmoe_runtime
from vmoe_export import export_bundle
from vmoe_runtime.installation import CUDA_OP_LIBRARY, find_native
from vmoe_runtime.precisions import TensorRtPrecision

LOAD = """
import sys
from vmoe_runtime.backends import onnxruntime_cpu
from vmoe_runtime import Engine
onnxruntime_cpu._FATAL_ONLY = 0  # ONNX Runtime tells all of what it does
engine = Engine.load(sys.argv[1], backend=sys.argv[2])
print(engine.backend, engine.only_profile and engine.only_profile.name, engine.backend_description, sep="|")
"""
PLACED = re.compile(r"Node\(s\) placed on \[(\w+)\]")
NODE = re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(\w+) \(")

pytestmark = [
    pytest.mark.skipif(find_native("lib", CUDA_OP_LIBRARY) is None, reason="it needs the op library for CUDA, and so nvcc"),
    pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU"),
]


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    provider = wheel_folder(GPU_WHEEL) / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    return cuda_provider.libraries(tmp_path_factory.mktemp("nvidia"), provider)


@pytest.fixture(scope="module", params=["fp32", "fp16", "bf16"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Path:
    """Export a bundle with five MoE layers and a graph for TensorRT. The test's parameter is the precision."""
    target = tmp_path_factory.mktemp("provider") / f"{request.param}.vmoe"
    precision: TensorRtPrecision = request.param
    export_bundle(mnist_checkpoint, target, capacity=[0.3], k=[1], tensorrt=True, precision=precision, validate=False)
    return target


def load(bundle: Path, backend: str, libraries: Path) -> tuple[str, Counter[str], Counter[str]]:
    """Load an engine and return its description.

    Also return the number of nodes of each type on CUDA and on the CPU.
    """
    path = os.pathsep.join([str(wheel_folder(GPU_WHEEL)), str(Path(vmoe_runtime.__file__).parents[1])])
    variables = {"PYTHONPATH": path, "LD_LIBRARY_PATH": str(libraries)}
    done = sdk_build.run(sys.executable, "-c", LOAD, bundle, backend, **variables)
    nodes: dict[str, Counter[str]] = {}
    provider = ""
    for line in done.stderr.splitlines():
        if placed := PLACED.search(line):
            provider = placed[1]
        elif node := NODE.search(line):
            nodes.setdefault(provider, Counter())[node[1]] += 1
    on_cuda, on_cpu = (nodes.get(f"{provider}ExecutionProvider", Counter()) for provider in ("CUDA", "CPU"))
    return done.stdout.removesuffix("\n"), on_cuda, on_cpu


@pytest.mark.sample(1)
def test_a_fixed_graph_is_on_the_gpu_but_for_one_shape_and_copies_nothing_back(bundle: Path, nvidia: Path) -> None:
    said, on_cuda, on_cpu = load(bundle, "cuda-fixed", nvidia)
    description = f"ONNX Runtime 1.31.1 CUDA on {fake_gpu.NAME}, {bundle.stem}, vmoe CUDA op library"
    assert said == f"cuda-fixed|c0.3-k1|{description}"
    assert [on_cuda[op] for op in ("VmoeGates", "VmoeRouteDispatch", "VmoeCombine")] == [5, 5, 5]
    assert [name for name in on_cuda if name.startswith("Memcpy")] == []
    assert on_cpu == {"Concat": 1}  # this node computes the shape of a batch's class tokens


def test_settings_of_a_call_come_back_from_the_gpu_once_a_layer(bundle: Path, nvidia: Path) -> None:
    said, on_cuda, _ = load(bundle, "cuda", nvidia)
    assert said.startswith("cuda|None|")
    assert on_cuda["VmoeRouteDispatch"] + on_cuda["VmoeRoute"] == 5
    assert on_cuda["MemcpyToHost"] == 5


def test_graphs_that_merge_are_on_the_gpu_but_for_shapes(tmp_path: Path, nvidia: Path, mnist_checkpoint: Path) -> None:
    export_bundle(mnist_checkpoint, tmp_path / "b.vmoe", capacity=[0.3], k=[1], merge=8, tensorrt=True, validate=False)
    _, on_cuda, on_cpu = load(tmp_path / "b.vmoe", "cuda-fixed", nvidia)
    assert on_cuda["GatherElements"] == 5 and not on_cuda["MemcpyToHost"] and on_cpu.keys() == {"Concat"}
    _, on_cuda, _ = load(tmp_path / "b.vmoe", "cuda", nvidia)
    assert on_cuda["GatherElements"] == 5 and on_cuda["MemcpyToHost"] == 5
