"""`tensorrt_builder.serialized_engine` itself, on the builder of TensorRT-RTX, which needs no GPU and has the same names.

It has no plugins, so the models are dense. Engines are built for a card that is named, and not run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import golden
import pytest
from test_tensorrt_parser import RTX_WHEELS
from wheels import wheel_folder

import vmoe_runtime
from vmoe_export import export_bundle
from vmoe_runtime.bundle.manifest import TensorRtPrecision

CUDA_WHEELS = ("cuda-bindings==13.4.4", "cuda-pathfinder==1.9.0")

# What is faked: the package's name and version, a registry of plugins, and the GPU, of which a build without a GPU must be
# told. All other calls are the product's own, into NVIDIA's builder.
BUILD = """
import json, sys
from pathlib import Path
import tensorrt_rtx_libs, tensorrt_rtx_bindings as trt

class Builder(trt.Builder):
    def create_builder_config(self):
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM120, 0)
        return config

trt.Builder, trt.__version__ = Builder, "10.13.0"
sys.modules["tensorrt"] = trt
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError
from vmoe_tools.build import tensorrt_builder

tensorrt_builder.load_plugin = lambda *_: None
bundle, graph = Bundle.open(sys.argv[1]), sys.argv[2]
shapes = tuple(tuple(shape) for shape in json.loads(sys.argv[3]))
options = {"workspace": 1 << 30, "plugin_inside": False, "timing_cache": b""}
said = []
try:
    engine, timing = tensorrt_builder.serialized_engine(
        bundle.graph(graph), Path("none.so"), shapes, listener=said.append, **options
    )
    print(json.dumps({"bytes": len(engine), "timing": len(timing), "said": said}))
except BackendError as error:
    print(json.dumps({"error": str(error)}))
"""


def build(bundle: Path, graph: str, batches: tuple[int, int, int], size: tuple[int, int, int]) -> Mapping[str, Any]:
    path = [wheel_folder(*RTX_WHEELS), wheel_folder(*CUDA_WHEELS), Path(vmoe_runtime.__file__).parents[1]]
    arguments = [str(bundle), graph, json.dumps([(batch, *size) for batch in batches])]
    environment = {"PYTHONPATH": ":".join(map(str, path))}
    command = [sys.executable, "-c", BUILD, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    report: Mapping[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module", params=["fp32", "fp16", "bf16"])
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    precision: TensorRtPrecision = request.param
    target = tmp_path_factory.mktemp("rtx") / "dense.vmoe"
    export_bundle(golden.FOLDER / "g4", target, tensorrt=True, precision=precision, validate=False)
    return target


def test_a_dense_bundle_becomes_an_engine_for_a_range_of_batches(dense: Path) -> None:
    report = build(dense, "model.tensorrt.onnx", (1, 4, 8), (64, 64, 3))
    assert report.get("error") is None
    assert report["bytes"] > 0 and report["said"]


def test_a_range_that_cannot_be_is_the_builders_own_sentence(dense: Path) -> None:
    report = build(dense, "model.tensorrt.onnx", (4, 2, 8), (64, 64, 3))
    assert "TensorRT can't build an engine from" in report["error"]
