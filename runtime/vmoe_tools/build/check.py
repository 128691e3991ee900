"""Compares an engine with the bundle's own graph on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np

from vmoe_measure.comparison import Run, differences, smooth_images
from vmoe_runtime.backends import Backend, Parallelism, open_backend
from vmoe_runtime.backends.tensorrt.tensorrt_graph import exported_graphs
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import UnavailableError
from vmoe_runtime.images import scale_pixels
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import layer_outputs

_IMAGES = 8
_SEED = 20210610

# The two limits for each precision. The first is the largest accepted difference from the CPU's outputs, relative to the
# largest output. This difference is a median over the images. In half precision, some gates swap order, and the outputs
# of the affected images differ by more than rounding errors. The second limit is the smallest accepted share of matching
# (token, choice) pairs. A pair matches if the same expert keeps it on the engine and on the CPU, or if both the engine
# and the CPU drop it.
LIMITS = {"fp32": (1e-4, 0.995), "fp16": (2e-2, 0.95), "bf16": (1e-1, 0.75)}


@dataclass(frozen=True)
class Check:
    """The comparison of an engine with the CPU, in calls with one batch size.

    Attributes:
        reference: description of the backend on the CPU.
        batch: images per call.
        images: number of images compared.
        largest_output: largest absolute output on the CPU.
        max_difference: largest absolute difference over all images.
        median_difference: median, over the images, of each image's largest absolute difference.
        agreement: share of matching (token, choice) pairs; 1 for a dense ViT. A pair matches if the same expert keeps it on
            the engine and on the CPU, or if both the engine and the CPU drop it.
    """

    reference: str
    batch: int
    images: int
    largest_output: float
    max_difference: float
    median_difference: float
    agreement: float


class Reference:
    """The outputs of a bundle's own graph on the CPU, with which an engine's outputs are compared.

    The images are at least eight smooth random images. They fill at least two routing groups.

    Args:
        bundle: the bundle.
        profile: the profile that the engine is fixed to; None for a dense ViT.

    Raises:
        click.ClickException: no backend for the CPU is installed.
        BackendError: the backend failed.
    """

    def __init__(self, bundle: Bundle, profile: Profile | None) -> None:
        self._manifest = manifest = bundle.manifest
        self._profile = profile
        self._precision = exported_graphs(bundle).precision
        spec = manifest.input
        count = max(-(-_IMAGES // manifest.batch_multiple), 2) * manifest.batch_multiple
        pixels = smooth_images(count, spec.height, spec.width, spec.channels)
        self._images = pixels if spec.dtype == "uint8" else scale_pixels(pixels)
        cpu = _cpu_backend(bundle)
        names = list(layer_outputs(manifest))
        values = cpu.run({"image": self._images, **(profile.inputs if profile else {})}, self._outputs(names))
        self._description = cpu.description
        self._run = Run.of(names, values, profile, by_token=True)

    def check(self, engine: Backend, batch: int) -> Check:
        """Run the reference's images on the engine, and compare the outputs with the CPU's outputs.

        Each call has `batch` images. If there are too few images for the last call, routing groups are repeated, in random
        order, to fill it.

        Raises:
            BackendError: the engine failed.
            click.ClickException: outputs or routing differ too much from the CPU's.
        """
        multiple = self._manifest.batch_multiple
        groups = len(self._images) // multiple
        calls = -(-len(self._images) // batch)
        order = np.resize(np.arange(groups), calls * batch // multiple)
        np.random.default_rng(_SEED).shuffle(order[groups:])
        chosen = (order[:, None] * multiple + np.arange(multiple)).reshape(-1)
        names = list(layer_outputs(self._manifest, fixed=self._profile))
        runs = []
        for images in np.split(self._images[chosen], calls):
            values = engine.run({"image": images}, self._outputs(names))
            runs.append(Run.of(names, values, self._profile, by_token=True))
        apart = differences(self._run.of_images(chosen), Run.joined(runs))
        check = Check(
            reference=self._description,
            batch=batch,
            images=len(chosen),
            largest_output=float(np.abs(self._run.output).max()),
            max_difference=float(apart.largest.max()),
            median_difference=float(np.median(apart.largest)),
            agreement=apart.agreement,
        )
        refuse_wrong_answers(check, self._precision)
        return check

    def _outputs(self, names: Sequence[str]) -> list[str]:
        return [self._manifest.output, *(f"{layer}/{name}" for layer in self._manifest.moe_layers for name in names)]


def refuse_wrong_answers(check: Check, precision: str) -> None:
    """Refuse an engine whose outputs differ too much from the bundle's.

    Raises:
        click.ClickException: outputs or routing differ too much from the CPU's.
    """
    difference, agreement = LIMITS[precision]
    engine = f"in calls of {check.batch} images the engine"
    if not check.agreement >= agreement:
        raise click.ClickException(
            f"{engine} routes {check.agreement:.2%} of the pairs as {check.reference} does, but {precision} should reach "
            f"{agreement:.1%}; the engine was not kept"
        )
    allowed = difference * check.largest_output
    if not (math.isfinite(check.max_difference) and check.median_difference <= allowed):
        raise click.ClickException(
            f"{engine}'s outputs differ from those of {check.reference} by {check.median_difference:.2e} (median over the "
            f"images), but {precision} allows only {allowed:.2e}; the engine was not kept"
        )


def _cpu_backend(bundle: Bundle) -> Backend:
    for name in ("onnxruntime", "openvino"):
        try:
            return open_backend(name, bundle, Parallelism())[1]
        except UnavailableError:
            continue
    raise click.ClickException(
        "the engine is checked against the bundle's graph on the CPU, which needs pip install 'vmoe-export[cpu]'"
    )
