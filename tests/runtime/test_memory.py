"""Check the peak memory of a call: each image in a large batch adds little more than its residual stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import sdk_build
from cpu_paths import need_op_library
from variants import Variant

from vmoe_export import export_bundle

need_op_library()

MODEL = Variant(
    "a V-MoE whose activations outweigh it", classifier="token", position="learned", trained_grid=(14, 14),
    image_size=(224, 224), patch=(16, 16), hidden=192, heads=3, moe=(1,), experts=4, classes=10,
)  # fmt: skip
FEW, MANY = 16, 128
STREAM_BYTES = 4 * 197 * 192
PEAK = """
import os, re, sys
from pathlib import Path
import numpy as np
from vmoe_runtime import Engine
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # each thread has memory of its own
engine = Engine.load(sys.argv[1], backend="onnxruntime", threads=2, verify=False)
images = np.zeros((int(sys.argv[2]), 224, 224, 3), np.float32)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
engine(images)
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.sample(1)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a part of a run")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_image_of_a_large_batch_adds_little_more_than_its_residual_stream(precision: Any, tmp_path: Path) -> None:
    options = {**MODEL.export_options, "precision": precision, "capacity": [0.3], "k": [1], "group": "image"}
    bundle = export_bundle(MODEL.write(tmp_path), tmp_path / "model.vmoe", validate=False, **options).path
    few, many = (1024 * int(sdk_build.run(sys.executable, "-c", PEAK, bundle, str(n)).stdout) for n in (FEW, MANY))
    of_image = (many - few) / (MANY - FEW) - 4 * 224 * 224 * 3
    assert of_image < 4 * STREAM_BYTES
