"""What validation lets pass, whatever the model's depth and kind, and which faults it finds in the part that has them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_runs import Vmoe
from export_plans import sparse_file
from safetensors.numpy import save_file
from variants import Variant

from vmoe_export import export, export_bundle
from vmoe_export.bundle.weights_file import Span
from vmoe_export.errors import ExportError
from vmoe_export.export import ExportResult
from vmoe_export.model.parameters import parameter_shapes
from vmoe_export.validation import proof
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, INLINED_GRAPH, WEIGHTS_NAME

pytestmark = pytest.mark.long

WIDE = Variant(
    "wide", "token", "learned", (4, 4), (16, 16), hidden=192, heads=3, layers=4, moe=(1, 3), settings=((1.05, 2, True),)
)
DEEP = replace(WIDE, name="deep", hidden=96, layers=40, moe=tuple(range(1, 40, 2)))
DENSE = replace(WIDE, name="dense", moe=())
MANY = replace(WIDE, name="many", moe=(3,), experts=16)  # of which few have a class token


def saved(variant: Variant, folder: Path, seed: int = 0) -> Path:
    """A checkpoint of N(0, 0.02) weights, layer norms near 1."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, array in variant.parameters().items():
        noise = rng.standard_normal(array.shape, np.float32) * np.float32(0.02)
        tensors[name] = noise + np.float32("LayerNorm" in name and name.endswith("scale"))
    path = folder / "model.safetensors"
    save_file(tensors, path)
    return path


def exported(variant: Variant, folder: Path, seed: int = 0, **options: Any) -> ExportResult:
    return export_bundle(saved(variant, folder, seed), folder / "x.vmoe", config=variant.config, force=True, **options)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4", "bf16-experts"])
def test_a_deep_model_passes_in_every_precision(precision: Any, tmp_path: Path) -> None:
    result = exported(DEEP, tmp_path, precision=precision)
    assert result.limits and len(result.comparisons) == 2
    for found in result.comparisons:
        assert found.relative_difference < result.limits.relative / 2 and found.agreement == 1
        assert found.output_difference < 0.2 and 0 <= found.images_alike <= found.images


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_sound_models_pass(precision: Any, seed: int, tmp_path: Path) -> None:
    kinds: tuple[dict[str, Any], ...] = ({}, {"router": "experts-choice"}, {"dispatch_bf16": True}, {"pool": True})
    exported(WIDE, tmp_path, seed, precision=precision, **kinds[seed % 4])


def test_an_option_that_loosens_refuses_nothing_that_passed(tmp_path: Path) -> None:
    usual = exported(DEEP, tmp_path, precision="bf16")
    largest = max(found.max_difference for found in usual.comparisons)
    exported(DEEP, tmp_path, precision="bf16", atol=2 * largest, max_distance=1.0)
    with pytest.raises(ExportError, match=r"more than --atol .*; no bundle was written$"):
        exported(DEEP, tmp_path, precision="bf16", atol=largest / 2)


def another_value(tensor: np.ndarray, places: int, random: np.random.Generator) -> None:
    """The next number in the place of one: its last bit is another."""
    tensor.reshape(places, -1)[random.integers(places), 0] ^= 1


def exchanged_experts(tensor: np.ndarray, places: int, random: np.random.Generator) -> None:
    one, other = random.choice(len(tensor), 2, replace=False)
    tensor[[one, other]] = tensor[[other, one]]


def zeros(tensor: np.ndarray, places: int, random: np.random.Generator) -> None:
    tensor[:] = 0


STORED_FAULTS: dict[str, tuple[Callable[[np.ndarray, int, np.random.Generator], None], str]] = {
    "a weight": (another_value, "kernel"),
    "a scale": (another_value, "kernel_scale"),
    "two experts": (exchanged_experts, "Moe/Mlp/Dense_0/kernel"),
    "a bias": (zeros, "bias"),
}
GRAPH_FAULTS = {"another weight": "Dense_0/kernel", "another scale": "Dense_0/kernel_scale", "no bias": "Dense_1/bias"}


def plant(fault: str, folder: Path, spans: Mapping[str, Span], random: np.random.Generator) -> None:
    """Damages a random tensor in the weights file, or what the graphs take from there."""
    ending = GRAPH_FAULTS.get(fault) or STORED_FAULTS[fault][1]
    names = sorted(name for name in spans if name.startswith("Encoder/encoderblock") and name.endswith(ending))
    name = str(random.choice(names))
    span = spans[name]
    if fault in STORED_FAULTS:
        shape = (span.shape[0], span.length // span.shape[0])
        tensor = np.memmap(folder / WEIGHTS_NAME, np.uint8, "r+", span.offset, shape)
        STORED_FAULTS[fault][0](tensor, math.prod(span.shape), random)
        tensor.flush()
        return
    same = [spans[other] for other in names if other != name and spans[other].shape == span.shape]
    for path in (folder / CANONICAL_GRAPH, folder / INLINED_GRAPH):
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.name != name and not tensor.name.startswith(f"{name}/"):
                continue
            if fault == "no bias":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
            else:
                (offset,) = (entry for entry in tensor.external_data if entry.key == "offset")
                offset.value = str(int(offset.value) + same[0].offset - span.offset)
        onnx.save(model, path)


@pytest.mark.parametrize(
    ("variant", "precision", "fault"),
    [
        (variant, precision, fault)
        for variant, precision in ((WIDE, "fp32"), (WIDE, "bf16"), (WIDE, "int8"), (DENSE, "int8"), (MANY, "fp32"))
        for fault in (*STORED_FAULTS, *GRAPH_FAULTS)
        if ("scale" not in fault or precision == "int8") and ("experts" not in fault or variant.moe)
    ],
    ids=str,
)
def test_a_planted_fault_is_found(
    variant: Variant, precision: Any, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove(plan: Any, model: Any, folder: Path, spans: Mapping[str, Span], *arguments: Any) -> Any:
        plant(fault, folder, spans, np.random.default_rng(len(variant.name)))
        return proof.prove(plan, model, folder, spans, *arguments)

    monkeypatch.setattr(export, "prove", prove)
    with pytest.raises(ExportError, match="no bundle was written"):
        exported(variant, tmp_path, precision=precision)


def test_an_export_needs_no_torch_and_a_torch_file_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from vmoe_tools.program import main_of_export; sys.exit(main_of_export())"
    )

    def run(checkpoint: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, checkpoint, "--precision", "bf16", "-o", tmp_path / "x.vmoe", "--force"]
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    done = run(saved(WIDE, tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "x.vmoe" / "manifest.json").read_bytes())["validation"]["comparisons"]
    (tmp_path / "model.pt").write_bytes(b"")
    done = run(tmp_path / "model.pt")
    assert done.returncode == 1
    assert done.stderr.endswith("torch is not installed; pip install 'vmoe-export[torch]'\n")


@pytest.mark.parametrize(
    ("sizes", "minutes", "gigabytes"),
    [((1280, 32, 5120, 16, 14), (1, 60), (1.5, 3)), ((1408, 48, 6400, 16, 16), (3, 120), (2, 4))],
    ids=["H/14 with 32 experts", "15B parameters"],
)
def test_a_dry_run_says_what_the_largest_models_cost(
    sizes: tuple[int, ...], minutes: tuple[int, int], gigabytes: tuple[float, float], tmp_path: Path, writer: Any, vmoe: Vmoe
) -> None:
    model = writer.describe(writer.Variant(*sizes), 224, 1000, 32, writer.moe_layers("Every 2", sizes[1]))
    path = sparse_file(tmp_path / "large.safetensors", parameter_shapes(model))
    out, err = vmoe.run("export", path, "--dry-run", "-c", 0.3, "--k", 1, "--precision", "bf16", "--json", "-")
    assert "GB of memory on this machine" in err
    cost = json.loads(out)["estimate"]
    assert minutes[0] < cost["seconds"] / 60 < minutes[1]
    assert gigabytes[0] < cost["memory_bytes"] / 1e9 < gigabytes[1]
