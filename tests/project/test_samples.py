"""Tests of two samples that users can copy.

One sample writes random checkpoints. The other one runs a bundle and needs only ONNX Runtime.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import sdk_build
from bundle_changes import says
from command_runs import kept_bundle, noise, npz
from damaged_files import copied_bundle, folder_bytes, put

from vmoe_export import export_bundle, open_checkpoint
from vmoe_export.model.config_file import load_config
from vmoe_export.model.model_description import describe_model
from vmoe_export.model.parameters import parameter_shapes
from vmoe_runtime import Engine

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture
def tiny(writer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module that writes random checkpoints, with its S/32 model reduced to a few kB and 12 blocks."""
    monkeypatch.setitem(writer.VARIANTS, "S/32", writer.Variant(16, 12, 24, 2, 8))
    return writer


def test_a_written_checkpoint_reads_back_bit_equal(tiny: ModuleType, tmp_path: Path) -> None:
    shapes = parameter_shapes(tiny.describe(tiny.VARIANTS["S/32"], 24, 7, 5, (1, 2, 10)))
    make = tiny.random_weights(0)
    tiny.write_checkpoint(tmp_path / "w.safetensors", shapes, make)
    with open_checkpoint(tmp_path / "w.safetensors") as checkpoint:
        assert checkpoint.keys() == shapes.keys()
        for name, tensor in checkpoint.items():
            np.testing.assert_array_equal(tensor, make(name, shapes[name]), err_msg=name)


@pytest.mark.parametrize(
    ("placement", "blocks", "layers"),
    [
        ("Every 2", 8, (1, 3, 5, 7)),
        ("Every 3", 8, (2, 5)),
        ("Last 2", 8, (5, 7)),
        ("Last 5", 24, (15, 17, 19, 21, 23)),
    ],
)
def test_moe_layers_are_placed_as_in_the_paper(
    writer: ModuleType, placement: str, blocks: int, layers: tuple[int, ...]
) -> None:
    assert writer.moe_layers(placement, blocks) == layers


@pytest.mark.parametrize("variant", ["S/32", "B/16", "L/16", "H/14"])
def test_the_written_config_describes_the_written_tensors(writer: ModuleType, variant: str, tmp_path: Path) -> None:
    sizes = writer.VARIANTS[variant]
    model = writer.describe(sizes, 224, 1000, 8, writer.moe_layers("Last 2", sizes.num_layers))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(writer.official_config(model)))
    assert describe_model(parameter_shapes(model), load_config(path)) == model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "Z/16"], "'Z/16' is not one of"),
        (["--layers", "Odd 2"], "'Odd 2' is not of the form"),
        (["--layers", "Last 7"], "more blocks than the 12"),
        (["--experts", "0"], "0 is not in the range"),
        (["--image-size", "8"], "smaller than one patch"),
        (["--dense", "--experts", "4"], "without MoE layers"),
    ],
)
def test_a_mistake_in_the_call_is_one_sentence_and_exit_code_2(
    writer: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert writer.main([str(tmp_path / "x"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not folder_bytes(tmp_path)


def test_an_existing_checkpoint_is_replaced_by_force_only(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tmp_path / "x"), "--variant", "S/32", "--seed"]
    assert tiny.main([*command, "4"]) == 0
    before = folder_bytes(tmp_path)
    assert sorted(before) == ["x.json", "x.safetensors"]
    assert tiny.main([*command, "2"]) == 1
    assert "--force replaces it" in capsys.readouterr().err
    assert folder_bytes(tmp_path) == before
    assert tiny.main([*command, "2", "--force"]) == 0
    assert folder_bytes(tmp_path)["x.safetensors"] != before["x.safetensors"]


def test_a_name_with_the_suffix_is_that_of_the_file(tiny: ModuleType, tmp_path: Path) -> None:
    assert tiny.main([str(tmp_path / "x.safetensors"), "--variant", "S/32"]) == 0
    assert sorted(folder_bytes(tmp_path)) == ["x.json", "x.safetensors"]


@pytest.mark.parametrize("options", [["--experts", "5", "--layers", "Last 2"], ["--dense"]])
def test_a_random_checkpoint_exports_and_answers(tiny: ModuleType, tmp_path: Path, options: list[str]) -> None:
    sizes = ["--variant", "S/32", "--image-size", "24", "--num-classes", "7"]
    assert tiny.main([str(tmp_path / "r"), *sizes, *options]) == 0
    routing = {} if "--dense" in options else {"capacity": [0.5], "k": [1]}
    result = export_bundle(tmp_path / "r.safetensors", tmp_path / "r.vmoe", config=tmp_path / "r.json", **routing)
    assert result.comparisons
    images = np.random.default_rng(0).uniform(-1, 1, (3, 24, 24, 3)).astype(np.float32)
    with Engine.load(tmp_path / "r.vmoe") as engine:
        logits = engine(images)
    assert logits.shape == (3, 7)
    assert np.isfinite(logits).all() and logits.std() > 0


def run_plain(*arguments: str | Path, blocked: Path) -> subprocess.CompletedProcess[str]:
    """Run the sample in an environment that can't import `vmoe_runtime`.

    The run proves that the sample doesn't need this package.
    """
    (blocked / "vmoe_runtime").mkdir(exist_ok=True)
    (blocked / "vmoe_runtime" / "__init__.py").write_text("raise ImportError\n")
    command = (sys.executable, SAMPLES / "onnxruntime_plain.py", *arguments)
    return sdk_build.run(*command, PYTHONPATH=str(blocked))


def test_plain_onnxruntime_gives_the_accuracy_of_the_engine(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    images, labels = mnist_images["images"][:512], mnist_images["labels"][:512]
    digits = npz(tmp_path / "digits.npz", images=images, labels=labels)
    finished = run_plain(mnist_bundle, digits, "--profile", "c0.3-k1", blocked=tmp_path)
    assert finished.stderr == ""
    with Engine.load(mnist_bundle, profile="c0.3-k1") as engine:
        logits, routing = engine.logits_and_routing(images)
    accuracy = 100 * np.mean(logits.argmax(-1) == labels)
    kept = 100 * np.mean([route.kept for route in routing.values()])
    assert finished.stdout == f"top-1 accuracy: {accuracy:.2f} % of 512 images\nkept pairs: {kept:.2f} %\n"


def test_plain_onnxruntime_merges_as_the_first_profile_says(mnist_images: dict[str, np.ndarray], tmp_path: Path) -> None:
    digits, bundle = npz(tmp_path / "digits.npz", images=mnist_images["images"][:64]), tmp_path / "m.vmoe"
    export_bundle(SAMPLES / "mnist" / "vmoe_mnist", bundle, capacity=[0.3], k=[1], merge=16, validate=False)
    by_default = run_plain(bundle, digits, blocked=tmp_path)
    named = run_plain(bundle, digits, "--profile", "c0.3-k1-r16", blocked=tmp_path)
    assert (by_default.stdout, by_default.stderr) == (named.stdout, "")
    assert b"By default it merges no tokens." in (bundle / "model.onnx").read_bytes()


def test_plain_onnxruntime_runs_a_soft_moe_and_takes_no_features_for_classes(tmp_path: Path) -> None:
    images = noise(tmp_path / "images.npz")
    finished = run_plain(kept_bundle("soft"), images, blocked=tmp_path)
    assert finished.stderr == "" and finished.stdout.startswith("top-1 accuracy") and "kept" not in finished.stdout
    features = copied_bundle(kept_bundle("soft"), tmp_path / "features.vmoe")
    says(put("output/name", "features"))(features)
    finished = run_plain(features, images, blocked=tmp_path)
    assert finished.returncode == 1 and finished.stderr.endswith("returns features, which have no classes\n")


def test_plain_onnxruntime_says_in_one_line_what_is_wrong(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    few = npz(tmp_path / "few.npz", images=mnist_images["images"][:40])
    finished = run_plain(mnist_bundle, few, blocked=tmp_path)
    assert finished.returncode == 1
    assert "the bundle needs a multiple of 16 images, but there are 40" in finished.stderr
    assert finished.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_fine_tuned_sample_knows_other_digits_at_every_capacity(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    command = (sys.executable, SAMPLES / "finetune.py", "digits.vmoe", "--epochs", "3")
    said = sdk_build.built(*command, folder=tmp_path, OMP_NUM_THREADS="1")
    assert said.startswith("epoch 1 of 3, step 1: loss ")  # progress is also shown within an epoch
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| 0") or "1.05" in line]
    accuracy = {float(ratio): float(bpr.rstrip("%")) for ratio, bpr, _ in rows}
    assert accuracy[1.05] >= 95 and accuracy[0.1] >= 80
    with np.load(tmp_path / "digits.npz") as data, Engine.load(tmp_path / "digits.vmoe") as engine:
        right = (engine(data["images"]).argmax(axis=1) == data["labels"]).mean()
    assert abs(100 * right - accuracy[1.05]) < 0.1
    again = subprocess.run([*map(str, command)], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.endswith("digits.vmoe exists; --force replaces it\n")
