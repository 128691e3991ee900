"""`vmoe-export` when all goes well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vmoe_export.cli import main
from vmoe_runtime import Engine
from vmoe_runtime.capacity import compute_slots

MNIST = Path(__file__).parents[2] / "samples" / "mnist"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> pytest.CaptureFixture[str]:
    monkeypatch.setenv("COLUMNS", "200")
    return capsys


def test_export_prints_the_model_its_profiles_and_the_validation(
    mnist_checkpoint: Path, tmp_path: Path, output: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "out.vmoe"
    assert run(mnist_checkpoint, "--capacity", 0.3, "--k", 1, "--k", 2, "-o", bundle, "-v") == 0
    printed = output.readouterr().out
    for text in (
        "V-MoE             5 blocks, hidden size 64, 4 heads",
        "blocks 0, 1, 2, 3, 4: 8 experts of size 128",
        "image: 50 tokens; batches in multiples of 1",
        "By default        capacity_multiple_of = 1, dispatch_bf16 = False, ensemble_size = 1, kind = top-k, ",
        "From the tensors  attention_qk_norm = False, channels = 1",
        "ONNX Runtime against torch",
        f"Wrote {bundle}",
    ):
        assert text in printed
    row = next(line for line in printed.splitlines() if "c0.3-k1" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][1:6] == ["0.3", "0.32", "1", "yes", "2"]
    manifest = json.loads((bundle / "manifest.json").read_text())
    comparisons = manifest["validation"]["comparisons"]
    assert {(c["graph"], c["profile"]) for c in comparisons} == {
        (graph, profile) for graph in ("model.onnx", "model.inlined.onnx") for profile in ("c0.3-k1", "c0.3-k2")
    }
    assert all(c["max_difference"] < 1e-5 and c["agreement"] == 1 for c in comparisons)
    assert manifest["source"]["name"] == "vmoe_mnist"


def test_dry_run_prints_the_same_plan_and_writes_nothing(
    mnist_checkpoint: Path, tmp_path: Path, output: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(mnist_checkpoint, "--capacity", 0.3, "--k", 1, "--dry-run") == 0
    printed = output.readouterr().out
    assert "c0.3-k1" in printed and "nothing was written; vmoe_mnist.vmoe would take 3.0 MB" in printed
    assert list(tmp_path.iterdir()) == []


def test_json_says_what_was_written(mnist_checkpoint: Path, tmp_path: Path, output: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "out.vmoe"
    arguments = ("--config", MNIST / "config.json", "--group", "tokens:800", "--no-bpr", "--no-validate", "--json", "-")
    assert run(mnist_checkpoint, "-c", 0.3, "-c", 1.05, "--k", 2, "-o", bundle, *arguments) == 0
    result = json.loads(output.readouterr().out)
    assert result["written"] is True and result["bundle"] == str(bundle)
    assert [p["name"] for p in result["profiles"]] == ["c0.3-k2-vanilla", "c1.05-k2-vanilla"]
    assert [p["capacity"] for p in result["profiles"]] == [[compute_slots(1600, 8, c)] * 5 for c in (0.3, 1.05)]
    assert result["group"] == {"name": "tokens:800", "tokens": 800, "batch_multiple": 16}
    assert result["validation"] == [] and result["limits"] is None
    assert result["notes"] == ["c1.05-k2-vanilla costs more than the dense ViT of the same size"]
    assert result["model"]["origins"]["k"] == "config"


def test_flops_of_a_profile_are_those_of_its_places(mnist_checkpoint: Path, output: pytest.CaptureFixture[str]) -> None:
    assert run(mnist_checkpoint, "-c", 0.3, "-c", 1.0, "--k", 1, "--dry-run", "--json", "-") == 0
    result = json.loads(output.readouterr().out)
    tokens, width, hidden, layers, experts = 50, 64, 128, 5, 8
    dense = 2 * 49 * 16 * width + layers * (8 * tokens * width**2 + 4 * tokens**2 * width) + 2 * width * 10
    router = 2 * tokens * width * experts
    assert result["dense_flops_per_image"] == dense + layers * 4 * tokens * width * hidden
    for profile in result["profiles"]:
        places = experts * profile["capacity"][0]
        assert profile["flops_per_image"] == dense + layers * (4 * places * width * hidden + router)


def test_training_settings_that_are_not_followed_are_named(
    mnist_checkpoint: Path, output: pytest.CaptureFixture[str]
) -> None:
    assert run(mnist_checkpoint, "-c", 0.3, "--config", MNIST / "config.json", "--dry-run") == 0
    printed = output.readouterr().out
    assert "the config's group_size of 800 tokens is not followed" in printed
    assert "the config's batch_priority False is not followed: --no-bpr follows it" in printed
    assert "From the config" not in printed


def test_force_replaces_a_bundle_and_quiet_prints_nothing(
    mnist_checkpoint: Path, tmp_path: Path, output: pytest.CaptureFixture[str], mnist_images: dict[str, np.ndarray]
) -> None:
    bundle = tmp_path / "out.vmoe"
    names = tmp_path / "digits.txt"
    names.write_text("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    settings = ("-c", 0.5, "--k", 1, "-o", bundle, "--no-validate", "-q")
    assert run(mnist_checkpoint, *settings) == 0
    first = (bundle / "manifest.json").read_bytes()
    assert run(mnist_checkpoint, *settings, "--force", "--input", "uint8", "--class-names", names) == 0
    assert output.readouterr() == ("", "")
    assert (bundle / "manifest.json").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with Engine.load(bundle) as engine:
        assert engine.manifest.input.dtype == "uint8"
        answers = engine(mnist_images["images"][:64]).argmax(axis=1)
        assert engine.class_names is not None and engine.class_names[3] == "three"
    assert (answers == mnist_images["labels"][:64]).mean() > 0.9


def test_the_installed_command_says_its_version_and_help() -> None:
    command = Path(sys.executable).with_name("vmoe-export")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("vmoe-export, version ")
    text = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--capacity", "--k", "--group", "--image-size", "--dispatch-bf16", "--dry-run"):
        assert option in text


def test_without_the_export_packages_the_command_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['click'] = None; sys.argv = ['vmoe-export', 'x']\nfrom vmoe_export.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "vmoe-export: click is not installed; pip install 'vmoe-export[export]'\n"
