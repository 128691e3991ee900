"""Check that validation accepts correct graphs of any depth and kind.

If a graph has a fault, validation must report the part that has it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sdk_build
from command_runs import Vmoe
from export_plans import sparse_file
from planted_faults import DENSE, WIDE, Case, cases, exported, refusal, saved

from vmoe_export.errors import ExportError
from vmoe_export.model.parameters import parameter_shapes
from vmoe_export.validation import proof
from vmoe_export.validation.part_validation import PartValidation
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH

pytestmark = pytest.mark.long

DEEP = replace(WIDE, name="deep", hidden=96, layers=40, moe=tuple(range(1, 40, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4", "bf16-experts"])
def test_a_deep_model_passes_in_every_precision(precision: Any, tmp_path: Path) -> None:
    result = exported(DEEP, tmp_path, precision=precision)
    assert result.limits and len(result.comparisons) == 2
    for found in result.comparisons:
        assert found.relative_difference < result.limits.relative / 2 and found.agreement == 1
        assert found.output_difference < 0.2 and 0 <= found.images_alike <= found.images


@pytest.mark.sample(2)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_sound_models_pass(precision: Any, seed: int, tmp_path: Path) -> None:
    kinds: tuple[dict[str, Any], ...] = ({}, {"router": "experts-choice"}, {"dispatch_bf16": True}, {"pool": True})
    exported(WIDE, tmp_path, seed, precision=precision, **kinds[seed % 4])


@pytest.mark.slow
def test_an_option_that_loosens_refuses_nothing_that_passed(tmp_path: Path) -> None:
    usual = exported(DEEP, tmp_path, precision="bf16")
    largest = max(found.max_difference for found in usual.comparisons)
    exported(DEEP, tmp_path, precision="bf16", atol=2 * largest, max_distance=1.0)
    with pytest.raises(ExportError, match=r"more than --atol .*; no bundle was written$"):
        exported(DEEP, tmp_path, precision="bf16", atol=largest / 2)


@pytest.mark.sample(3)
@pytest.mark.parametrize("layer_scale", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_sound_models_of_small_layer_scale_pass(precision: Any, layer_scale: float, tmp_path: Path) -> None:
    exported(DENSE, tmp_path, layer_scale=layer_scale, precision=precision)


@pytest.mark.sample(12)
@pytest.mark.parametrize("case", [*cases()][::12], ids=str)
def test_a_planted_fault_is_found(case: Case, tmp_path: Path) -> None:
    assert refusal(case, tmp_path).endswith("no bundle was written")


def test_a_part_is_refused_with_its_own_share_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class AfterAWorsePart(PartValidation):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            for watch in self._watched:
                watch.found.agreement = 0.0

    case = Case(WIDE, 1.0, "fp32", "another weight", "Router/dense/kernel", CANONICAL_GRAPH)
    alone = refusal(case, tmp_path)
    assert re.search(r"/Moe of model\.onnx at .* routes \d+\.\d\d% of the pairs as the reference does", alone)
    monkeypatch.setattr(proof, "PartValidation", AfterAWorsePart)
    assert refusal(case, tmp_path) == alone


def test_an_export_needs_no_torch_and_a_torch_file_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from vmoe_tools.program import main_of_export; sys.exit(main_of_export())"
    )

    def run(checkpoint: Path) -> subprocess.CompletedProcess[str]:
        words = (checkpoint, "--precision", "bf16", "-o", tmp_path / "x.vmoe", "--force")
        return sdk_build.run(sys.executable, "-c", program, *words, COLUMNS="200")

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
    validation = cost["validation_seconds"]
    assert list(validation) == ["fp32", "bf16", "int8", "int4", "bf16-experts"]
    assert validation["fp32"] < validation["bf16"] < validation["int8"] < validation["int4"]
    assert validation["bf16"] < cost["seconds"]
    assert "Validation takes about" in err and "--no-validate skips it" in err
