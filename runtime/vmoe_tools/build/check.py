"""Compares an engine with the bundle's own graph on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_runtime.backends import Backend, Parallelism, open_backend
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_tools.command_line import CommandError
from vmoe_measure.comparison import Run, differences, smooth_images
from vmoe_runtime.errors import UnavailableError
from vmoe_runtime.images import scale_pixels
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import layer_outputs

Array = np.ndarray[Any, np.dtype[Any]]

_IMAGES = 8
_SEED = 20210610


class BuildError(CommandError):
    """An engine that can't be built, or that doesn't answer as its bundle does."""


@dataclass(frozen=True)
class EngineLimits:
    """How far an engine may be from the CPU.

    Attributes:
        difference: of an image's outputs, relative to the largest output; the median over the images counts.
        agreement: least share of the (token, choice) pairs that are kept at the same expert, or dropped, by both.
    """

    difference: float
    agreement: float


# In half precision some gates change places. From there on an image takes another path, and its outputs differ by more than
# rounding; so the median stands for the engine, and not the image that fares worst.
LIMITS = {"fp32": EngineLimits(1e-4, 0.995), "fp16": EngineLimits(2e-2, 0.95), "bf16": EngineLimits(1e-1, 0.75)}


@dataclass(frozen=True)
class Check:
    """An engine against the CPU, in calls of one size.

    Attributes:
        reference: what ran on the CPU, in words.
        batch: images per call.
        images: number of images compared.
        largest_output: largest absolute value that the CPU gave.
        max_difference: largest absolute difference over all images.
        median_difference: median over the images of each one's largest absolute difference.
        agreement: share of the (token, choice) pairs that both keep at the same expert, or drop; 1 for a dense ViT.
    """

    reference: str
    batch: int
    images: int
    largest_output: float
    max_difference: float
    median_difference: float
    agreement: float


@dataclass(frozen=True)
class Expected:
    """What the bundle's own graph gives on the CPU.

    Attributes:
        reference: what ran it, in words.
        images: whole routing groups of them, as the graph takes them.
        run: what it gave.
    """

    reference: str
    images: Array
    run: Run


def expect(bundle: Bundle, profile: Profile | None) -> Expected:
    """Runs smooth random images on the CPU: eight, or more where that isn't two routing groups.

    Raises:
        BuildError: no backend for the CPU is installed.
        BackendError: it failed.
    """
    manifest = bundle.manifest
    images = _images(manifest)
    cpu = _cpu_backend(bundle)
    names = list(layer_outputs(manifest))
    values = cpu.run({"image": images, **(profile.inputs() if profile else {})}, _outputs(manifest, names))
    return Expected(cpu.description, images, Run.of(names, values, profile))


def compare_engine(engine: Backend, manifest: Manifest, expected: Expected, profile: Profile | None, batch: int) -> Check:
    """Runs the same images on the engine, in calls of one size.

    Calls of more images than there are have them again, shuffled.

    Args:
        engine: the loaded engine.
        manifest: of the bundle.
        expected: of `expect`.
        profile: that the engine is fixed to; None for a dense ViT.
        batch: images per call.

    Raises:
        BackendError: it failed.
    """
    multiple = manifest.batch_multiple
    parts = len(expected.images) // multiple
    calls = -(-len(expected.images) // batch)
    order = np.resize(np.arange(parts), calls * batch // multiple)
    np.random.default_rng(_SEED).shuffle(order[parts:])
    chosen = (order[:, None] * multiple + np.arange(multiple)).reshape(-1)
    names = list(layer_outputs(manifest, fixed=True))
    outputs = _outputs(manifest, names)
    runs = []
    for i in range(calls):
        images = expected.images[chosen[i * batch : (i + 1) * batch]]
        runs.append(Run.of(names, engine.run({"image": images}, outputs), profile))
    apart = differences(expected.run.of_images(chosen), Run.joined(runs))
    return Check(
        reference=expected.reference,
        batch=batch,
        images=len(chosen),
        largest_output=float(np.abs(expected.run.output).max()),
        max_difference=float(apart.largest.max()),
        median_difference=float(np.median(apart.largest)),
        agreement=apart.agreement,
    )


def refuse_wrong_answers(check: Check, precision: str) -> None:
    """Refuses an engine that doesn't do what the bundle does.

    Raises:
        BuildError: outputs or routing are too far from the CPU's.
    """
    limits = LIMITS[precision]
    if not check.agreement >= limits.agreement:
        raise BuildError(
            f"in calls of {check.batch} images the engine routes {check.agreement:.2%} of the pairs as {check.reference} "
            f"does, and {precision} should reach {limits.agreement:.1%}; it was not kept"
        )
    allowed = limits.difference * check.largest_output
    if not (math.isfinite(check.max_difference) and check.median_difference <= allowed):
        raise BuildError(
            f"in calls of {check.batch} images the engine's answers differ from those of {check.reference} by "
            f"{check.median_difference:.2e} (median over the images), and {precision} may differ by {allowed:.2e}; it was "
            "not kept"
        )


def _outputs(manifest: Manifest, names: Sequence[str]) -> list[str]:
    return [manifest.output, *(f"{layer}/{name}" for layer in manifest.moe_layers for name in names)]


def _images(manifest: Manifest) -> Array:
    count = max(-(-_IMAGES // manifest.batch_multiple), 2) * manifest.batch_multiple
    spec = manifest.input
    pixels = smooth_images(count, spec.height, spec.width, spec.channels)
    return pixels if spec.dtype == "uint8" else scale_pixels(pixels)


def _cpu_backend(bundle: Bundle) -> Backend:
    for name in ("onnxruntime", "openvino"):
        try:
            return open_backend(name, bundle, Parallelism())[1]
        except UnavailableError:
            continue
    raise BuildError(
        "the engine is checked against the bundle's graph on the CPU, which needs pip install 'vmoe-export[cpu]'"
    )
