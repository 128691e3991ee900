"""Check that exporting a float32 bundle gives the same files as exporting its checkpoint.

The new bundle must also keep the settings of the float32 bundle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bundle_changes import MANIFEST, WEIGHTS, Change, flipped, says, text
from command_runs import Refuse
from damaged_files import copied_bundle, drop, put
from export_plans import planned
from variants import VARIANTS, Variant

from vmoe_export import export_bundle
from vmoe_runtime.bundle.reader import Bundle

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
FILES = ("weights.safetensors", "model.onnx", "model.inlined.onnx")


@pytest.mark.parametrize("variant", VARIANTS[::3], ids=str)
def test_another_precision_has_the_files_that_the_checkpoint_gives(variant: Variant, tmp_path: Path) -> None:
    checkpoint = variant.write(tmp_path)
    export_bundle(checkpoint, tmp_path / "fp32.vmoe", validate=False, **variant.export_options)
    export_bundle(checkpoint, tmp_path / "direct.vmoe", validate=False, precision="int8", **variant.export_options)
    export_bundle(tmp_path / "fp32.vmoe", tmp_path / "again.vmoe", validate=False, precision="int8")
    direct, again = tmp_path / "direct.vmoe", tmp_path / "again.vmoe"
    for name in FILES:
        assert (direct / name).read_bytes() == (again / name).read_bytes(), name
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (direct, again)]
    for manifest in manifests:
        del manifest["source"], manifest["model"]["origins"]
        if manifest["output"]["name"] == "features":
            # A bundle that returns features has no head. So an export from it can't determine the number of classes.
            del manifest["model"]["num_classes"], manifest["flops_per_image"]
    assert manifests[0] == manifests[1]


def test_float32_once_more_is_the_same_bundle(mnist_bundle: Path, tmp_path: Path) -> None:
    export_bundle(mnist_bundle, tmp_path / "x.vmoe", validate=False)
    assert [(tmp_path / "x.vmoe" / name).read_bytes() == (mnist_bundle / name).read_bytes() for name in FILES] == [True] * 3


def test_profiles_groups_and_names_are_the_bundles(mnist_checkpoint: Path, tmp_path: Path) -> None:
    names = [f"digit {i}" for i in range(10)]
    options = {"group": "4", "class_names": names, "input": "uint8", "bpr": False, "capacity_multiple_of": 4}
    export_bundle(mnist_checkpoint, tmp_path / "a.vmoe", capacity=[0.3, 1.05], k=[2, 1], validate=False, **options)
    result = export_bundle(tmp_path / "a.vmoe", tmp_path / "b.vmoe", precision="bf16")
    one, other = (Bundle.open(tmp_path / name).manifest for name in ("a.vmoe", "b.vmoe"))
    assert list(other.profiles.items()) == list(one.profiles.items())
    assert list(other.profiles) == ["c0.3-k2-vanilla", "c0.3-k1-vanilla", "c1.05-k2-vanilla", "c1.05-k1-vanilla"]
    assert (other.group, other.batch_multiple, other.rules) == (one.group, one.batch_multiple, one.rules)
    assert (other.input, other.class_names) == (one.input, tuple(names))
    assert other.raw["source"] == {"name": "a.vmoe", "format": "bundle", "sha256": Bundle.open(tmp_path / "a.vmoe").identity}
    assert result.distances


@pytest.mark.parametrize(
    ("given", "profiles"),
    [
        ({"capacity": [0.5]}, ["c0.5-k1", "c0.5-k2"]),
        ({"k": [3]}, ["c0.3-k3", "c1.05-k3"]),
        ({"capacity": [0.5], "k": [4]}, ["c0.5-k4"]),
        ({"bpr": False}, ["c0.3-k1-vanilla", "c0.3-k2-vanilla", "c1.05-k1-vanilla", "c1.05-k2-vanilla"]),
        ({"capacity": [0.5], "bpr": False}, ["c0.5-k1-vanilla", "c0.5-k2-vanilla"]),
    ],
    ids=str,
)
def test_what_is_given_beats_the_bundle(given: dict[str, Any], profiles: list[str], mnist_image_bundle: Path) -> None:
    plan = planned(mnist_image_bundle, precision="int8", **given)
    assert [profile.name for profile in plan.profiles] == profiles


@pytest.mark.parametrize("given", [{"router": "top-k"}, {"config": {}}, {"router": "top-k", "k": [1]}], ids=str)
def test_experts_choice_can_turn_out_to_be_top_k_routing(given: dict[str, Any], tmp_path: Path) -> None:
    export_bundle(GOLDEN / "g7", tmp_path / "x.vmoe", router="experts-choice", capacity=[0.5, 1.0], validate=False)
    plan = planned(tmp_path / "x.vmoe", **given)
    k = given.get("k", [2])[0]
    assert [(profile.capacity_ratio, profile.k, profile.bpr) for profile in plan.profiles] == [
        (0.5, k, True),
        (1.0, k, True),
    ]


def test_a_plain_bundle_can_turn_out_to_be_an_ensemble(mnist_image_bundle: Path) -> None:
    plan = planned(mnist_image_bundle, ensemble_size=2)
    assert [profile.name for profile in plan.profiles] == ["c0.3-k1", "c0.3-k2", "c1.05-k1", "c1.05-k2"]
    assert {(profile.pool, profile.max_experts) for profile in plan.profiles} == {(None, None)}


def test_a_group_of_a_whole_batch_comes_with_the_batch(mnist_checkpoint: Path, tmp_path: Path) -> None:
    export_bundle(mnist_checkpoint, tmp_path / "a.vmoe", group="batch", batch_size=3, validate=False)
    for options, multiple in (({}, 3), ({"group": "image"}, 1), ({"batch_size": 5}, 5)):
        assert planned(tmp_path / "a.vmoe", **options).grouping.batch_multiple == multiple


def test_another_image_size_changes_no_choice_of_orientation(mnist_image_bundle: Path, tmp_path: Path) -> None:
    bundle = copied_bundle(mnist_image_bundle, tmp_path / "x.vmoe")
    says(put("preprocessing/steps", "exif|resize(28)"))(bundle)
    assert str(planned(bundle, image_size=(40, 40)).preprocessing) == "exif|resize(40)"
    assert str(planned(bundle, image_size=(40, 40), exif=False).preprocessing) == "resize(40)"
    assert str(planned(bundle, preprocess="resize(28)").preprocessing) == "resize(28)"


def test_a_larger_image_resizes_the_position_embedding(mnist_image_bundle: Path) -> None:
    plan = planned(mnist_image_bundle, image_size=(40, 40))
    assert plan.weight_shapes["Encoder/posembed_input/pos_embedding"] == (1, 101, 64)


# Refusals.


REFUSED: dict[str, tuple[Change, str]] = {
    "weights with one bit changed": (flipped(WEIGHTS), "changed after export"),
    "weights cut short": (lambda bundle: os.truncate(bundle / WEIGHTS, 1000), "bytes where the manifest says"),
    "a manifest that is no JSON": (text(b"{"), MANIFEST),
    "a model of no classifier": (says(put("model/classifier", "average")), "'average'"),
    "a model of another classifier": (says(put("model/classifier", "map")), "'map'"),
    "a model whose experts are a number": (says(put("model/moe", 3)), "num_selected_experts"),
    "a model of more choices than experts": (says(put("model/moe/routing/k", 9)), "num_selected_experts"),
    "a model without a training k": (says(drop("model/moe/routing/k")), "num_selected_experts"),
    "a model of capacity ratio text": (says(put("model/moe/routing/capacity_ratio", "1.05")), "capacity_factor"),
    "a model of an unknown rounding": (says(put("model/moe/routing/rounding", "down")), "capacity_ceil_or_round"),
    "a model whose dispatcher is text": (says(put("model/moe/dispatch_bf16", "no")), "bfloat16"),
    "a model of an unknown position embedding": (says(put("model/position_emb", "rope")), "'rope'"),
    "a model of another position embedding": (says(put("model/position_emb", "none")), "'none'"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_a_bundle_that_is_damaged_or_describes_another_model_is_no_checkpoint(
    change: Change, words: str, mnist_image_bundle: Path, tmp_path: Path, refuse_export: Refuse
) -> None:
    bundle = copied_bundle(mnist_image_bundle, tmp_path / "b.vmoe")
    change(bundle)
    refuse_export(bundle, "--precision", "int8", names=["b.vmoe", words])


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_bundle_of_another_precision_is_no_checkpoint(
    precision: str, mnist_image_bundle: Path, tmp_path: Path, refuse_export: Refuse
) -> None:
    export_bundle(mnist_image_bundle, tmp_path / "b.vmoe", precision=precision, validate=False)
    refuse_export(tmp_path / "b.vmoe", names=[f"precision {precision}"])


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-experts", "bfloat16"), ("int8", "int8")])
def test_a_bundle_that_says_it_is_float32_and_is_not_is_no_checkpoint(
    precision: str, dtype: str, mnist_image_bundle: Path, tmp_path: Path, refuse_export: Refuse
) -> None:
    export_bundle(mnist_image_bundle, tmp_path / "short.vmoe", precision=precision, validate=False)
    bundle = copied_bundle(tmp_path / "short.vmoe", tmp_path / "b.vmoe", put("precision", "fp32"))
    names = ["b.vmoe", "kernel", dtype, "says that it is float32"]
    refuse_export(bundle, "--precision", "bf16", names=names)


def test_a_bundle_that_changes_while_it_is_opened_is_no_checkpoint(
    mnist_image_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse_export: Refuse
) -> None:
    bundle = copied_bundle(mnist_image_bundle, tmp_path / "b.vmoe")
    verify = Bundle.verify_weights

    def verify_and_replace(self: Bundle) -> None:
        verify(self)
        data = (bundle / "weights.safetensors").read_bytes()
        (bundle / "other").write_bytes(data)
        (bundle / "other").rename(bundle / "weights.safetensors")

    monkeypatch.setattr(Bundle, "verify_weights", verify_and_replace)
    refuse_export(bundle, names=["b.vmoe", "was changed while"])
