"""Tests for successful runs of `vmoe export`, and for invalid options of the Python function."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import sdk_build
from command_runs import Vmoe
from damaged_files import DENSE, SPARSE, assert_one_sentence, copied_checkpoint
from export_plans import planned
from variants import Variant

from vmoe_export import ExportError, ExportOptions, OptionError, export_bundle
from vmoe_export.summary import profile_notes
from vmoe_runtime import Engine
from vmoe_runtime.capacity import compute_slots

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
PROGRAM = [sys.executable, "-c", "import sys; from vmoe_tools.program import main_of_export; sys.exit(main_of_export())"]
ODD = os.fsdecode(b"odd\xff")


def test_an_export_is_described_validated_and_written(
    mnist_checkpoint: Path, tmp_path: Path, vmoe: Vmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    bundle = tmp_path / "[b] $(x).vmoe"
    text, _ = vmoe.run("export", mnist_checkpoint, "--capacity", 0.3, "--k", 1, "--k", 2, "-o", bundle, "-v")
    for part in (
        "5 blocks, hidden size 64, 4 heads",
        "image: 50 tokens",
        "From the tensors",
        "the reference",
        f"Wrote {bundle}",
    ):
        assert part in text
    assert shlex.split(text.splitlines()[-1].partition("next: ")[2]) == ["vmoe", "run", str(bundle), "IMAGE"]
    manifest = json.loads((bundle / "manifest.json").read_text())
    comparisons = manifest["validation"]["comparisons"]
    assert {(c["graph"], c["profile"]) for c in comparisons} == {
        (graph, profile) for graph in ("model.onnx", "model.inlined.onnx") for profile in ("c0.3-k1", "c0.3-k2")
    }
    assert all(c["max_difference"] < 1e-5 and c["agreement"] == 1 for c in comparisons)
    assert manifest["source"]["name"] == "vmoe_mnist"


def test_a_dry_run_writes_nothing_but_its_json(
    mnist_checkpoint: Path, tmp_path: Path, vmoe: Vmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out, err = vmoe.run("export", mnist_checkpoint, "-c", 0.3, "-c", 1.0, "--k", 1, "--dry-run", "--json", "-")
    assert "nothing was written; vmoe_mnist.vmoe would take 3.0 MB" in err
    assert list(tmp_path.iterdir()) == []
    result = json.loads(out)
    assert result["written"] is False
    assert result["profiles"][0]["flops_per_image"] < result["dense_flops_per_image"]


def test_json_has_the_settings_and_what_of_the_config_is_not_followed(
    mnist_checkpoint: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    options = ("--config", MNIST / "config.json", "--group", "tokens:1600", "--bpr", "--no-validate")
    words = (mnist_checkpoint, "-c", 0.3, "-c", 1.05, "--k", 2, *options, "-o", tmp_path / "x.vmoe")
    result = vmoe.json("export", *words)
    assert result["written"] is True and result["bundle"] == str(tmp_path / "x.vmoe")
    assert [p["name"] for p in result["profiles"]] == ["c0.3-k2", "c1.05-k2"]
    assert [p["capacity"] for p in result["profiles"]] == [[compute_slots(3200, 8, c)] * 5 for c in (0.3, 1.05)]
    assert result["group"] == {"name": "tokens:1600", "tokens": 1600, "batch_multiple": 32}
    assert (result["validation"], result["limits"], result["model"]["origins"]["k"]) == ([], None, "config")
    notes = " ".join(result["notes"])
    assert "group_size of 800 tokens is not followed" in notes and "batch_priority False is not followed" in notes
    assert "c1.05-k2 costs more than the dense ViT" in notes


def test_force_replaces_a_bundle_and_quiet_prints_nothing(
    mnist_checkpoint: Path, tmp_path: Path, vmoe: Vmoe, mnist_images: dict[str, np.ndarray]
) -> None:
    bundle, names = tmp_path / "out.vmoe", tmp_path / "digits.txt"
    names.write_text("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    words = ("export", mnist_checkpoint, "-c", 0.5, "--k", 1, "-o", bundle, "--no-validate", "-q")
    for more in ((), ("--force", "--input", "uint8", "--class-names", names)):
        assert vmoe.run(*words, *more) == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.txt", "out.vmoe"]
    with Engine.load(bundle) as engine:
        assert engine.manifest.input.dtype == "uint8"
        answers = engine(mnist_images["images"][:64]).argmax(axis=1)
        assert engine.class_names is not None and engine.class_names[3] == "three"
    assert (answers == mnist_images["labels"][:64]).mean() > 0.9


@pytest.mark.parametrize(
    ("checkpoint", "options", "limits", "distance"),
    [
        (SPARSE, [], {"difference": None, "agreement": 0.98}, None),
        (DENSE, ["--precision", "bf16", "--atol", "0.1"], {"difference": 0.1, "agreement": 0.98}, 0.05),
    ],
)
def test_json_has_the_limits_of_validation(
    checkpoint: Path, options: list[str], limits: dict[str, Any], distance: float | None, tmp_path: Path, vmoe: Vmoe
) -> None:
    result = vmoe.json("export", checkpoint, *options, "-o", tmp_path / "x.vmoe")
    assert 1e-6 < result["limits"].pop("relative") < 1e-2
    assert (result["limits"], result["distance_limit"]) == (limits, distance)
    assert [entry["graph"] for entry in result["validation"]] == ["model.onnx", "model.inlined.onnx"]


def test_profiles_that_are_the_same_or_far_from_their_ratio_are_named(mnist_checkpoint: Path) -> None:
    notes = profile_notes(planned(mnist_checkpoint, capacity=[0.3, 0.31, 0.05, 1.05], k=[1, 2]))
    assert "c0.3-k1 and c0.31-k1 are the same: each gives an expert 2 slots per group" in notes
    assert any("c0.05-k1 is 0.16 with 1 slot," in note for note in notes)
    assert "c1.05-k1 and c1.05-k2 cost more than the dense ViT of the same size" in notes
    assert profile_notes(planned(mnist_checkpoint, capacity=[0.32, 0.5], k=[1], group="16")) == ()
    assert profile_notes(planned(DENSE)) == ()


@pytest.mark.parametrize(
    ("size", "whole"), [((30, 30), "28x28"), ((28, 29), "28x28"), ((35, 28), "32x28"), ((32, 28), None), ((32, 32), None)]
)
def test_pixels_that_no_patch_covers_are_named(size: tuple[int, int], whole: str | None, mnist_checkpoint: Path) -> None:
    told = planned(mnist_checkpoint, image_size=size).notes
    notes = [note for note in told if "patches of 4x4 px" in note]
    assert ("the position embedding is resized from 7x7 to 8x8 patches" in told) == (size == (32, 32))
    assert [note.endswith(f"the first {whole}") for note in notes] == ([] if whole is None else [True])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"classifer": "gap", "encoder": {"moe": {"k": 1, "layers": None}}}, ": classifer, encoder.moe.k"),
        ({"name": "x", "a": 0, "b": 0, "c": 0, "d": 0}, ": a, b, c and 1 more"),
    ],
)
def test_fields_that_no_official_config_has_are_named(config: dict[str, Any], told: str, mnist_checkpoint: Path) -> None:
    (note,) = (note for note in planned(mnist_checkpoint, config=config).notes if "they are ignored" in note)
    assert note.endswith(told)


@pytest.mark.parametrize("classifier", ["map", "gap"])
def test_where_all_blocks_have_experts_these_may_be_of_another_size_than_an_mlp(classifier: Any, tmp_path: Path) -> None:
    variant = Variant("sizes", classifier, "learned", (2, 2), (8, 8), moe=(0, 1))
    head = "MapHead/Mlp/Dense_"
    cuts = {f"{head}0/kernel": np.s_[:, :20], f"{head}0/bias": np.s_[:20], f"{head}1/kernel": np.s_[:20]}
    tensors = {name: values[cuts.get(name, ...)].copy() for name, values in variant.parameters().items()}
    safetensors.numpy.save_file(tensors, tmp_path / "ckpt.safetensors")
    config = {"classifier": classifier, "encoder": {"mlp_dim": 20, "moe": {"mlp_dim": 48}}}
    model = export_bundle(tmp_path / "ckpt.safetensors", tmp_path / "x.vmoe", config=config).plan.model
    assert model.moe and (model.mlp_dim, model.moe.mlp_dim) == (20 if classifier == "map" else 48, 48)


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    copied_checkpoint(tmp_path, DENSE)
    for file in tmp_path.glob("ckpt.*"):
        file.rename(file.with_name(file.name.replace("ckpt", ODD)))
    done = sdk_build.run(*PROGRAM, ODD, "--dry-run", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "odd\\udcff.vmoe would take" in done.stdout
    export_bundle(tmp_path / ODD, tmp_path / "x.vmoe", validate=False)
    source = json.loads((tmp_path / "x.vmoe" / "manifest.json").read_bytes())["source"]
    assert source["name"] == "odd\N{REPLACEMENT CHARACTER}"
    with pytest.raises(ExportError, match="not text in UTF-8"):
        export_bundle(DENSE, tmp_path / f"{ODD}.vmoe")


def test_class_names_may_come_from_a_pipe(mnist_checkpoint: Path) -> None:
    words = (mnist_checkpoint, "--class-names", "/dev/stdin", "--dry-run", "-q")
    done = sdk_build.run(*PROGRAM, *words, text="\n".join(map(str, range(10))))
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_packages_of_the_exporter_it_names_the_extra() -> None:
    for package in ("rich", "onnx"):
        program = f"import sys; sys.modules['{package}'] = None; {PROGRAM[2].partition('; ')[2]}"
        done = sdk_build.run(sys.executable, "-c", program, DENSE)
        assert done.returncode == 1
        assert_one_sentence(done.stderr.removesuffix("\n"), package, "pip install 'vmoe-export[export]'")


def test_options_and_keyword_arguments_write_the_same_bundle(tmp_path: Path) -> None:
    options = ExportOptions(input="uint8", precision="bf16", bpr=np.bool_(True))  # type: ignore[arg-type]
    export_bundle(SPARSE, tmp_path / "a.vmoe", options, validate=False)
    export_bundle(SPARSE, tmp_path / "b.vmoe", input="uint8", precision="bf16", bpr=True, validate=False)
    for name in ("manifest.json", "model.onnx", "weights.safetensors"):
        assert (tmp_path / "a.vmoe" / name).read_bytes() == (tmp_path / "b.vmoe" / name).read_bytes()
    for given, fields in ((options, {"input": "uint8"}), ({"input": "uint8"}, {})):
        with pytest.raises(OptionError):
            export_bundle(DENSE, tmp_path / "x.vmoe", given, **fields)  # type: ignore[arg-type]
