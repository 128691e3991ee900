"""Compares an engine with the bundle's own graph on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_build.batches import BatchRange
from vmoe_build.errors import BuildError
from vmoe_runtime.backends import Backend, Parallelism, open_backend
from vmoe_runtime.bundle import Bundle
from vmoe_runtime.comparison import pairs_alike, smooth_images
from vmoe_runtime.errors import UnavailableError
from vmoe_runtime.images import scale_pixels
from vmoe_runtime.manifest import Manifest
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import layer_outputs, placed_pairs

Array = np.ndarray[Any, np.dtype[Any]]

_IMAGES = 8


@dataclass(frozen=True)
class Limits:
    """How far an engine may be from the CPU.

    Attributes:
        difference: of an image's outputs, relative to the largest output; the median over the images counts.
        agreement: least share of the (token, choice) pairs that are kept at the same expert, or dropped, by both.
    """

    difference: float
    agreement: float


# In half precision some gates change places. From there on an image takes another path, and its outputs differ by more than
# rounding; so the median stands for the engine, and not the image that fares worst.
LIMITS = {"fp32": Limits(1e-4, 0.995), "fp16": Limits(2e-2, 0.95), "bf16": Limits(1e-1, 0.75)}


@dataclass(frozen=True)
class Check:
    """An engine against the CPU.

    Attributes:
        reference: what ran on the CPU, in words.
        images: number of images compared.
        largest_output: largest absolute value that the CPU gave.
        max_difference: largest absolute difference over all images.
        median_difference: median over the images of each one's largest absolute difference.
        agreement: share of the (token, choice) pairs that both keep at the same expert, or drop; 1 for a dense ViT.
    """

    reference: str
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
        images: the batch, as the graph takes it.
        values: logits or features.
        placed: of each MoE layer, see `placed_pairs`.
    """

    reference: str
    images: Array
    values: Array
    placed: list[Array]


def expect(bundle: Bundle, profile: Profile | None, batches: BatchRange) -> Expected:
    """Runs smooth random images on the CPU.

    Raises:
        BuildError: no backend for the CPU is installed.
        BackendError: it failed.
    """
    manifest = bundle.manifest
    images = _images(manifest, batches)
    layers = manifest.moe_layers
    cpu = _cpu_backend(bundle)
    names = list(layer_outputs(manifest))
    outputs = [manifest.output, *(f"{layer}/{name}" for layer in layers for name in names)]
    values = cpu.run({"image": images, **(profile.inputs() if profile else {})}, outputs)
    return Expected(cpu.description, images, values[0], placed_pairs(names, values[1:], profile))


def check_engine(engine: Backend, manifest: Manifest, expected: Expected, profile: Profile | None) -> Check:
    """Runs the same images on the engine.

    Raises:
        BackendError: it failed.
    """
    names = list(layer_outputs(manifest, fixed=True))
    layers = [f"{layer}/{name}" for layer in manifest.moe_layers for name in names]
    output, *found = engine.run({"image": expected.images}, [manifest.output, *layers])
    alike = pairs_alike(expected.placed, placed_pairs(names, found, profile), len(output))
    agreement = float(np.mean(alike)) if alike else 1.0
    differences = np.abs(expected.values - output).max(axis=1)
    return Check(
        reference=expected.reference,
        images=len(expected.images),
        largest_output=float(np.abs(expected.values).max()),
        max_difference=float(differences.max()),
        median_difference=float(np.median(differences)),
        agreement=agreement,
    )


def refuse_wrong_answers(check: Check, precision: str) -> None:
    """Refuses an engine that doesn't do what the bundle does.

    Raises:
        BuildError: outputs or routing are too far from the CPU's.
    """
    limits = LIMITS[precision]
    if not check.agreement >= limits.agreement:
        raise BuildError(
            f"the engine routes {check.agreement:.2%} of the pairs as {check.reference} does, and {precision} should reach "
            f"{limits.agreement:.1%}; it was not kept"
        )
    allowed = limits.difference * check.largest_output
    if not (math.isfinite(check.max_difference) and check.median_difference <= allowed):
        raise BuildError(
            f"the engine's answers differ from those of {check.reference} by {check.median_difference:.2e} (median over the "
            f"images), and {precision} may differ by {allowed:.2e}; it was not kept"
        )


def _images(manifest: Manifest, batches: BatchRange) -> Array:
    multiple = manifest.batch_multiple
    count = min(max(-(-_IMAGES // multiple) * multiple, batches.smallest), batches.largest)
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
