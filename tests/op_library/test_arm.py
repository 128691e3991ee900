"""Tests for the op library and the SDK on 64-bit ARM in an emulator.

The core is checked on each CPU path of several emulated processors, and whole models run on every path. VMOE_ARM_SIZES is
the number of layer sizes on which the core is checked: 3 by default, 24 for a complete check. VMOE_ARM_IMAGES is the number
of MNIST images to use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
from arm_emulator import arm_emulator, arm_program, arm_runner
from cpu_paths import need_op_library
from routing_cases import same_bits
from sdk_build import Runner, built

from vmoe_export import ExportResult, export_bundle
from vmoe_export.precision import ExportPrecision
from vmoe_export.validation.limits import graph_limits
from vmoe_runtime import Engine

pytestmark = [pytest.mark.long, pytest.mark.slow]

need_op_library()

SIZES = os.environ.get("VMOE_ARM_SIZES", "3")
IMAGES = int(os.environ.get("VMOE_ARM_IMAGES", "5"))
SETTINGS: list[dict[str, Any]] = [
    {"capacity": ratio, "k": k, "bpr": bpr}
    for ratio in (0.1, 0.2, 0.3, 0.5, 1.05, 2.0)
    for k in (1, 2)
    for bpr in (True, False)
]
FEW = SETTINGS[8], SETTINGS[19]  # the settings c0.3-k1, and c1.05-k2 in vanilla order

WITHOUT_BF16 = "neon", "neon_dot", "neon_i8mm"
WITH_BF16 = "neon_bf16", "neon_bf16_emulated"
EVERY_PROCESSOR = pytest.mark.parametrize(
    ("processor", "paths"),
    [
        ("cortex-a53", WITHOUT_BF16[:1]),
        ("cortex-a76", WITHOUT_BF16[:2]),
        ("neoverse-n1", WITHOUT_BF16[:2]),
        ("neoverse-v1", (*WITHOUT_BF16, "neon_bf16")),
        ("max", (*WITHOUT_BF16, "neon_bf16")),
    ],
)
PRECISIONS: tuple[ExportPrecision, ...] = ("fp32", "bf16", "int8", "int4")
EVERY_PRECISION = pytest.mark.parametrize("precision", PRECISIONS)


@EVERY_PROCESSOR
def test_every_path_of_a_processor_is_right_and_the_best_is_used(processor: str, paths: Sequence[str]) -> None:
    program = arm_program("core_check", "libvmoe_core.a")
    right = [f"{path}: right" for path in ("scalar", *paths, "neon_bf16_emulated")]
    assert built(*arm_emulator(), "-cpu", processor, program, SIZES).splitlines() == [*right, f"{paths[-1]}: used"]


@EVERY_PROCESSOR
def test_an_engine_takes_the_best_path_and_says_which(
    processor: str, paths: Sequence[str], mnist_image_bundle: Path
) -> None:
    with on_arm(mnist_image_bundle, processor) as arm:
        assert arm.info()["runtime"].endswith(f" CPU, vmoe op library, {paths[-1]}")


@pytest.fixture(scope="module")
def images(mnist_images: dict[str, np.ndarray]) -> np.ndarray:
    return mnist_images["images"][:IMAGES, ..., None]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Mapping[str, ExportResult]:
    """Export the MNIST model in each precision, with each image routed separately."""
    folder = tmp_path_factory.mktemp("arm")
    options: dict[str, Any] = {"capacity": [0.3], "k": [1], "validate": False}
    return {
        precision: export_bundle(mnist_checkpoint, folder / precision, precision=precision, **options)
        for precision in PRECISIONS
    }


@EVERY_PRECISION
@pytest.mark.parametrize("paths", [WITHOUT_BF16, WITH_BF16], ids="-".join)
def test_paths_threads_and_neighbours_change_no_bit(
    precision: ExportPrecision, paths: Sequence[str], mnist: Mapping[str, ExportResult], images: np.ndarray
) -> None:
    """Run the model on CPU paths that compute bfloat16 products in the same way.

    Each path gets a different number of threads. All paths must give the same bits, both for images in a batch and for
    single images.
    """
    found = []
    for threads, path in enumerate(paths, 1):
        with on_arm(mnist[precision].path, path=path, threads=threads) as arm:
            for setting in FEW:
                alone = [arm.logits(image[None], **setting)[0] for image in images[:3]]
                found.append([arm.logits(images[:3], **setting), np.stack(alone)])
    for each, (expected, _) in zip(found, found[: len(FEW)] * len(paths), strict=True):
        assert same_bits(each, [expected, expected])


@EVERY_PRECISION
def test_mnist_at_24_settings_answers_as_on_this_machine(
    precision: ExportPrecision, mnist: Mapping[str, ExportResult], images: np.ndarray
) -> None:
    result = mnist[precision]
    close = Closeness()
    with on_arm(result.path) as arm, Engine.load(result.path, backend="onnxruntime", threads=1) as here:
        for setting in SETTINGS:
            found, expected = arm.logits(images, **setting), here(images, **setting)
            if precision == "fp32":
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
            close.add(found, expected, result)
    close.check()


@EVERY_PRECISION
def test_golden_models_answer_as_on_this_machine(precision: ExportPrecision, tmp_path: Path) -> None:
    close = Closeness()
    for model, cases in golden_cases().items():
        if precision == "int4" and cases[0].kind is None:
            continue  # int4 needs experts
        result = golden.export(model, tmp_path / model, precision=precision, **options_of(cases[0]))
        with on_arm(result.path) as arm, Engine.load(result.path, backend="onnxruntime", threads=1) as here:
            for case in cases:
                setting = setting_of(case)
                found, expected = arm.logits(case.images, **setting), here(case.images, **setting)
                if precision == "fp32":
                    official = case.logits.reshape(found.shape)
                    np.testing.assert_allclose(found, official, rtol=0, atol=3e-3 if case.bfloat16 else 1e-5)
                close.add(found, expected.reshape(found.shape), result)
    close.check()


class Closeness:
    """A measure of how close the logits of this machine and of the emulated one are, image by image."""

    def __init__(self) -> None:
        self._close: list[bool] = []
        self._same: list[bool] = []

    def add(self, found: np.ndarray, expected: np.ndarray, result: ExportResult) -> None:
        """Add a bundle's logits f32[N,C] from both machines.

        An image counts as close if its logits differ by no more than they could if sums were computed in another order.
        """
        model = result.plan.exported
        parts = 2 * model.config.num_layers + 2
        distance = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        self._close += list(distance <= math.sqrt(parts) * graph_limits(model, None).relative)
        self._same += list(found.argmax(axis=1) == expected.argmax(axis=1))

    def check(self) -> None:
        """Check that nearly all images are close. In the other images, rounding may have changed a token's expert."""
        assert np.mean(self._close) >= 0.9
        assert np.mean(self._same) >= 0.98


def on_arm(bundle: Path, processor: str = "max", path: str = "", threads: int = 1) -> closing[Runner]:
    """Start an engine in the emulator, on the CPU path `path`.

    By default, use the processor's best path.
    """
    program = arm_program("sdk_runner", "libvmoe_engine.so")
    return arm_runner(program, bundle, ["-cpu", processor, "-E", f"VMOE_CPU_PATH={path}"], threads)


def golden_cases() -> dict[str, list[golden.Case]]:
    """Return two cases for each official model. One exported bundle serves both cases."""
    cases = [*golden.cases(), *golden.ensemble_cases(), *golden.kind_cases()]
    found = {}
    for model in dict.fromkeys(case.model for case in cases):
        first = next(case for case in cases if case.model == model)
        same = [
            case
            for case in cases
            if (case.model, case.output) == (model, "logits") and options_of(case) == options_of(first)
        ]
        found[model] = same[:: -(-len(same) // 2)]
    return found


def options_of(case: golden.Case) -> dict[str, Any]:
    """Return the export options of a case."""
    if case.kind is None:
        return {}
    options = {"group": case.group, "dispatch_bf16": case.bfloat16}
    if case.kind == "soft":
        return options
    rounding = case.raw.get("capacity_ceil_or_round") or "ceil"
    return options | {"capacity_multiple_of": case.raw["capacity_multiple_of"] or 1, "rounding": rounding}


def setting_of(case: golden.Case) -> dict[str, Any]:
    profile = case.profile
    if profile is None:
        return {}
    choices = {"k": profile.k, "bpr": profile.bpr} if case.kind == "top-k" else {}
    return {"capacity": profile.capacity_ratio, **choices}
