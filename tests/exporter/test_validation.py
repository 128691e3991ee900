"""What an export compares its graphs with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vmoe_export import export_bundle
from vmoe_export.validation import precision_distance, reference
from vmoe_export.validation.reference import GRAPH_IMAGES, ROUNDED_IMAGES

SPARSE = Path(__file__).parents[1] / "data" / "golden" / "g1"
GRAPHS = ("model.onnx", "model.inlined.onnx")


@pytest.mark.parametrize(("precision", "tensorrt"), [("fp32", True), ("fp16", True), ("bf16", True), ("int8", False)])
def test_torch_answers_once_per_profile_for_all_comparisons(
    precision: str, tensorrt: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = reference.run_torch

    def counted(model: object, images: object, profile: object) -> object:
        asked.append((len(images), profile.name))  # type: ignore[arg-type, attr-defined]
        return real(model, images, profile)  # type: ignore[arg-type]

    monkeypatch.setattr(reference, "run_torch", counted)
    monkeypatch.setattr(precision_distance, "run_torch", real)  # of the model in float32
    result = export_bundle(
        SPARSE,
        tmp_path / "x.vmoe",
        capacity=[0.5, 1.05],
        k=[1],
        precision=precision,
        tensorrt=tensorrt,  # type: ignore[arg-type]
    )
    count = GRAPH_IMAGES if precision == "fp32" else ROUNDED_IMAGES
    assert asked == [(count, profile.name) for profile in result.plan.profiles]
    compared = {(found.graph, found.profile, found.images) for found in (*result.comparisons, *result.rounded)}
    for profile in result.plan.profiles:
        assert {(graph, profile.name, GRAPH_IMAGES) for graph in GRAPHS} <= compared
        fixed = result.tensorrt.get(profile.name)
        assert (fixed in {graph for graph, _, _ in compared}) is tensorrt
    assert all(distance.images == ROUNDED_IMAGES for distance in result.distances)


def test_features_of_labelled_images_are_no_answers(
    mnist_checkpoint: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "some.npz", images=mnist_images["images"][:16], labels=mnist_images["labels"][:16])
    result = export_bundle(
        mnist_checkpoint, tmp_path / "x.vmoe", capacity=[1.05], k=[1], precision="bf16", output="features",
        images=tmp_path / "some.npz",
    )  # fmt: skip
    (distance,) = result.distances
    assert (distance.images, distance.same_top1, distance.top1, distance.top1_float32) == (16, None, None, None)
