"""Compares an engine with the bundle's own graph on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_build.errors import BuildError
from vmoe_runtime.backends import Backend, Parallelism, open_backend
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.comparison import pairs_alike, smooth_images
from vmoe_runtime.errors import UnavailableError
from vmoe_runtime.images import scale_pixels
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import layer_outputs, placed_pairs

Array = np.ndarray[Any, np.dtype[Any]]

_IMAGES = 8
_SEED = 20210610


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
        values: logits or features.
        placed: of each MoE layer, see `placed_pairs`.
    """

    reference: str
    images: Array
    values: Array
    placed: list[Array]

    def in_order(self, order: Array) -> Expected:
        """The same of parts of equal size, one after the other.

        Args:
            order: i64[parts], which parts; there are as many as its largest number says.
        """
        parts = int(order.max()) + 1

        def taken(values: Array) -> Array:
            found: Array = values.reshape(parts, -1, *values.shape[1:])[order].reshape(-1, *values.shape[1:])
            return found

        return Expected(self.reference, taken(self.images), taken(self.values), [taken(layer) for layer in self.placed])


def expect(bundle: Bundle, profile: Profile | None) -> Expected:
    """Runs smooth random images on the CPU: eight, or more where that isn't two routing groups.

    Raises:
        BuildError: no backend for the CPU is installed.
        BackendError: it failed.
    """
    manifest = bundle.manifest
    images = _images(manifest)
    layers = manifest.moe_layers
    cpu = _cpu_backend(bundle)
    names = list(layer_outputs(manifest))
    outputs = [manifest.output, *(f"{layer}/{name}" for layer in layers for name in names)]
    values = cpu.run({"image": images, **(profile.inputs() if profile else {})}, outputs)
    return Expected(cpu.description, images, values[0], placed_pairs(names, values[1:], profile))


def check_engine(engine: Backend, manifest: Manifest, expected: Expected, profile: Profile | None, batch: int) -> Check:
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
    ordered = expected.in_order(order)
    names = list(layer_outputs(manifest, fixed=True))
    outputs = [manifest.output, *(f"{layer}/{name}" for layer in manifest.moe_layers for name in names)]
    values, placed = [], []
    for i in range(calls):
        output, *found = engine.run({"image": ordered.images[i * batch : (i + 1) * batch]}, outputs)
        values.append(output)
        placed.append(placed_pairs(names, found, profile))
    found_values = np.concatenate(values)
    found_placed = [np.concatenate(layer) for layer in zip(*placed, strict=True)]
    alike = pairs_alike(ordered.placed, found_placed, len(found_values))
    differences = np.abs(ordered.values - found_values).max(axis=1)
    return Check(
        reference=expected.reference,
        batch=batch,
        images=len(found_values),
        largest_output=float(np.abs(expected.values).max()),
        max_difference=float(differences.max()),
        median_difference=float(np.median(differences)),
        agreement=float(np.mean(alike)) if alike else 1.0,
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
