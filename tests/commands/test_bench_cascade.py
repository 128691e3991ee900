"""Cascades in `vmoe bench`: which settings make one, and its accuracy, FLOPs and margin, on images that were held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vmoe_measure.cascade import calibrated_margin
from vmoe_runtime import Engine
from vmoe_runtime.classes import margins_of
from vmoe_tools.program import main


def test_the_most_accurate_setting_comes_second_and_half_of_the_images_test_the_margin(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = mnist_images["images"][:512], mnist_images["labels"][:512]
    np.savez(tmp_path / "some.npz", images=images, labels=labels)
    axes = ["--sweep", "0.2:1.05:2", "--k", "1", "--k", "2", "--no-pool", "--pool", "--images", str(tmp_path / "some.npz")]
    rest = ["--cascade", "--duration", "0.001", "--threads", "1", "--json", "-"]
    assert not main(["bench", str(mnist_image_bundle), *axes, *rest])
    report = json.loads(capsys.readouterr().out)
    points = {point["profile"]: point for point in report["points"]}
    best = max(points.values(), key=lambda point: (point["top1"], -point["flops_per_image"]))
    cascades = report["cascades"]
    assert cascades and {cascade["then"] for cascade in cascades} == {best["profile"]}
    with Engine.load(mnist_image_bundle) as engine:
        for cascade in cascades:
            low, high = engine(images, cascade["profile"]), engine(images, cascade["then"])
            assert cascade["margin"] == calibrated_margin(low, high, labels)
            right = escalated = 0
            for known in (slice(0, None, 2), slice(1, None, 2)):
                other = slice(1 - known.start, None, 2)
                is_low = margins_of(low[other]) < calibrated_margin(low[known], high[known], labels[known])
                answers = np.where(is_low, high[other].argmax(1), low[other].argmax(1))
                right += np.count_nonzero(answers == labels[other])
                escalated += np.count_nonzero(is_low)
            assert (cascade["top1"], cascade["escalated"]) == (right / len(images), escalated / len(images))
            flops = points[cascade["profile"]]["flops_per_image"] + cascade["escalated"] * best["flops_per_image"]
            assert cascade["flops_per_image"] == round(flops)
