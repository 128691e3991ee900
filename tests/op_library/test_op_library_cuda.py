"""Tests for the op library for ONNX Runtime's CUDA provider, as far as is possible without a GPU.

Its CPU kernels run unchanged. The adapter between ONNX Runtime and the GPU kernels also runs, with the kernels on
an emulated GPU (tests/gpu_emulator).
"""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cpu_paths import Call, outputs_of, run_calls
from emulated_op_library import build_op_library
from moe_calls import MOE_OPS, moe_calls, same_values
from op_models import node_call, run_exact
from routing_cases import same_bits
from sdk_build import ROOT, built
from test_op_library_faults import FAULTS, Fault, good_inputs
from test_ort_versions import PROFILES, VERSIONS, assert_needs_the_c_and_cpp_runtimes_alone, bundle_calls, exported_names
from wheels import onnxruntime_folder

from vmoe_export.ops.table import OPS
from vmoe_runtime.installation import find_native

NAME = "libvmoe_onnxruntime_cuda.so"
PLUGINS = ROOT / "plugins"
NUMPY_FLOATS = (np.float32, np.float16, ml_dtypes.bfloat16)
INDEX_FAULTS = re.compile("(src|slot) -?[0-9]+$")  # faults in index values, which only the CPU kernels check

found_library = find_native("lib", NAME)
needs_library = pytest.mark.skipif(found_library is None, reason=f"{NAME} was not built here: it needs nvcc")


def library() -> Path:
    assert found_library is not None
    return found_library


@pytest.fixture(scope="module")
def emulated() -> Path:
    return build_op_library()


@pytest.fixture(scope="module")
def mnist_calls(mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]) -> list[Call]:
    return bundle_calls(mnist_image_bundle, mnist_images["images"])


@needs_library
def test_the_library_exports_its_entry_point_and_needs_neither_cuda_nor_tensorrt_to_load() -> None:
    assert exported_names(library()) == ["RegisterCustomOps", "vmoe_cuda_architectures", "vmoe_cuda_version"]
    assert "NODELETE" in built("readelf", "-d", library())
    assert_needs_the_c_and_cpp_runtimes_alone(library())


@needs_library
@pytest.mark.parametrize("version", [*VERSIONS, None])
def test_its_ops_on_the_cpu_are_those_of_the_cpu_library_bit_for_bit(version: str | None) -> None:
    packages = onnxruntime_folder(version) if version else None
    calls = [call.call for call in moe_calls(1, 15)]
    expected = outputs_of(run_calls(calls))
    for found, wanted in zip(outputs_of(run_calls(calls, packages=packages, library=library())), expected, strict=True):
        assert same_bits(found, wanted)


@needs_library
@pytest.mark.parametrize("version", [*VERSIONS, None])
def test_the_canonical_graph_runs_on_it_with_the_outer_op_inlined(version: str | None, mnist_calls: list[Call]) -> None:
    packages = onnxruntime_folder(version) if version else None
    expected = outputs_of(run_calls(mnist_calls))
    assert len(expected) == len(PROFILES)
    found = outputs_of(run_calls(mnist_calls, packages=packages, library=library()))
    for (logits, *routes), (wanted, *wanted_routes) in zip(found, expected, strict=True):
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)
        for what in (0, 1, 3):  # expert, kept and token
            for route, wanted_route in zip(routes[what::4], wanted_routes[what::4], strict=True):
                np.testing.assert_array_equal(route, wanted_route)


@needs_library
def test_its_errors_on_the_cpu_are_those_of_the_cpu_library() -> None:
    faults = [fault for fault in FAULTS.values() if fault.op in MOE_OPS]
    assert len(faults) > 150
    assert messages(faults, library()) == messages(faults)


@pytest.mark.compiles
def test_the_adapter_gives_the_bits_of_the_ops_on_the_cpu(emulated: Path) -> None:
    made = list(moe_calls(4, 20))
    found = outputs_of(run_calls([call.call for call in made], library=emulated))
    wrong = [str(call) for call, outputs in zip(made, found, strict=True) if not same_values(outputs, call.expected)]
    assert not wrong, f"{len(wrong)} of {len(made)} calls differ, such as {wrong[:5]}"


def test_the_adapter_gives_large_groups_a_workspace(emulated: Path) -> None:
    rng = np.random.default_rng(5)
    calls = []
    for dtype in NUMPY_FLOATS:
        gates, x = rng.random((2, 3000, 8), np.float32), rng.random((2, 3000, 5), np.float32).astype(dtype)
        for bpr in (0, 1):
            attributes = {"capacity": 400, "k": 2, "bpr": bpr}
            calls.append(node_call("VmoeRoute", {"gates": gates}, attributes))
            calls.append(node_call("VmoeRouteDispatch", {"gates": gates, "x": x}, attributes))
    for found, wanted in zip(outputs_of(run_calls(calls, library=emulated)), outputs_of(run_calls(calls)), strict=True):
        assert same_bits(found, wanted)


def test_the_errors_of_the_adapter_are_those_of_the_cpu_library(emulated: Path) -> None:
    faults = [fault for fault in FAULTS.values() if fault.op in MOE_OPS and not INDEX_FAULTS.search(fault.what)]
    assert len(faults) > 150
    assert messages(faults, emulated) == messages(faults)


@pytest.mark.parametrize("op", ["VmoeRoute", "VmoeRouteDispatch"])
@pytest.mark.parametrize(
    ("tokens", "experts", "k", "says"),
    [(65_537, 1, 1, ("65536", "tokens")), (2, 257, 1, ("256", "experts")), (2, 20, 9, ("8", "k "))],
)
def test_what_the_gpu_kernels_cannot_route_is_refused_with_what_to_do(
    op: str, tokens: int, experts: int, k: int, says: tuple[str, ...], emulated: Path
) -> None:
    inputs = {"gates": np.ones((1, tokens, experts), np.float32)}
    if op == "VmoeRouteDispatch":
        inputs["x"] = np.ones((1, tokens, 1), np.float32)
    (message,) = run_calls([node_call(op, inputs, {"capacity": 1, "k": k, "bpr": 1})], library=emulated)
    assert isinstance(message, str)
    for said in (f"{op}: ", *says, "on the CPU"):
        assert said in message


@needs_library
def test_gates_on_the_cpu_have_the_bits_of_the_kernel(emulated: Path) -> None:
    rng = np.random.default_rng(8)
    made = [
        {"x": rng.standard_normal((2, tokens, 24), np.float32), "router": rng.random((24, experts), np.float32) - 0.5}
        for tokens, experts in ((1, 8), (7, 5), (50, 32), (33, 256))
    ]
    calls = [node_call("VmoeGates", inputs) for inputs in made]
    found = outputs_of(run_calls(calls, library=library()))
    for gates, kernel, inputs in zip(found, outputs_of(run_calls(calls, library=emulated)), made, strict=True):
        assert same_bits(gates, kernel)
        np.testing.assert_allclose(gates[0], run_exact(OPS["VmoeGates"], *inputs.values())[0], rtol=3e-6)


@needs_library
def test_gates_of_too_many_experts_are_refused(emulated: Path) -> None:
    inputs = {"x": np.ones((1, 2, 3), np.float32), "router": np.ones((3, 257), np.float32)}
    for one in (emulated, library()):
        (message,) = run_calls([node_call("VmoeGates", inputs)], library=one)
        assert "VmoeGates: there must be 1 to 256 experts" in str(message)


@pytest.mark.parametrize(("pool", "limit", "is_official"), [(0, 4, True), (0, 99, True), (1, 4, False), (0, 3, False)])
def test_policies_are_refused_where_they_change_anything(pool: int, limit: int, is_official: bool, emulated: Path) -> None:
    gates = np.random.default_rng(6).random((2, 30, 4), np.float32)
    numbers = {"capacity": 5, "k": 2, "bpr": 1, "pool": pool, "max_experts": limit}
    call = node_call("VmoeRoute", {"gates": gates} | {name: np.array([n], np.int64) for name, n in numbers.items()})
    (found,) = run_calls([call], library=emulated)
    if is_official:
        assert same_bits(list(found), outputs_of(run_calls([call]))[0])
    else:
        assert "VmoeRoute: on a GPU pool must be 0 and max_experts at least the number of experts" in found


@pytest.mark.parametrize("op", ["VmoeGates", "VmoeDispatch", "VmoeRouteDispatch", "VmoeCombine"])
def test_an_error_of_cuda_is_an_error_of_the_op(op: str, emulated: Path) -> None:
    inputs = good_inputs(OPS[op])  # the loop below replaces inputs by rows of 13 numbers, which the emulator refuses
    for name in ("x", "out"):
        if name in inputs:
            inputs[name] = np.ones((*inputs[name].shape[:2], 13), np.float32)
    if "router" in inputs:
        inputs["router"] = np.ones((13, inputs["router"].shape[1]), np.float32)
    (message,) = run_calls([node_call(op, inputs)], library=emulated)
    assert isinstance(message, str)
    assert f"{op}: CUDA says: emulated error" in message


def messages(faults: list[Fault], of: Path | None = None) -> list[str]:
    """Return the error message of each call, with a fixed text instead of the path of the model file."""
    made = [node_call(f.op, good_inputs(OPS[f.op]) | dict(f.inputs), f.attributes, constants=f.constants) for f in faults]
    results = run_calls(made, library=of)
    assert all(isinstance(result, str) for result in results)
    return [re.sub(r"/[^ ]*[.]onnx", "FILE", str(result)) for result in results]
