"""Runs bundles on all images. Records the first bundle's routing, and how far the other bundles agree with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmoe_measure.image_source import ImageSource
from vmoe_runtime import ImageError
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.images import to_batch
from vmoe_runtime.profiles import Profile
from vmoe_tools.engines import LoadedBundle
from vmoe_tools.inspect.agreement import Agreement, AgreementCount
from vmoe_tools.inspect.statistics import LayerStatistics, RoutingStatistics

NO_ROUTERS = "A dense ViT has no routers: every patch goes through every layer, and there are no experts to show."
_IMAGES_PER_CALL = 16


@dataclass(frozen=True)
class OtherBundle:
    """Another bundle of the same model, such as another precision, compared with the inspected bundle.

    Attributes:
        bundle: name of the bundle, or its path if several bundles have the same name.
        precision: precision of the bundle's large matrix products.
        group: the images that share slots; None for a dense ViT.
        backend: description of the backend that the bundle ran on.
        agreement: agreement of the bundle's outputs and routing with those of the inspected bundle.
    """

    bundle: str
    precision: str
    group: str | None
    backend: str
    agreement: Agreement


@dataclass(frozen=True)
class ImageReport:
    """The results of a bundle on the user's images. The field names are keys of the JSON.

    Attributes:
        images: number of images that were run, in whole routing groups.
        top1: accuracy of the bundle; None if there are no labels.
        layers: statistics of each MoE layer, by its name.
        others: the other bundles, and their agreement with this bundle.
        bundle: name of the bundle.
        source: the npz file or folder.
        left_over: number of images at the end that were not run, because they don't fill a routing group.
        labelled: whether labels are known.
        class_names: class names of the model; None if the bundle has none.
        backend: description of the backend.
        group: the images that share slots: "image", "batch", a number of images or "tokens:S"; None for a dense ViT.
        profile: the setting; None for a dense ViT or a Soft MoE.
        notes: sentences about this kind of model, and about missing information.
    """

    images: int
    top1: float | None
    layers: Mapping[str, LayerStatistics]
    others: tuple[OtherBundle, ...]
    bundle: str
    source: str
    left_over: int
    labelled: bool
    class_names: tuple[str, ...] | None
    backend: str
    group: str | None
    profile: Profile | None
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the report as a dictionary with the keys and values of the JSON."""
        run = self.profile
        slots = {} if run is None else {"slots": run.slots, "effective_ratio": run.effective_ratio}
        return {**asdict(self), "profile": run and {"name": run.name, **run.stored(), **slots}}


def run_images(
    bundles: Sequence[LoadedBundle],
    source: ImageSource,
    profile: Profile | None,
    after_batch: Callable[[int], None] = lambda images: None,
    *,
    name: str = "",
) -> ImageReport:
    """Run each image once. Images at the end that don't fill a routing group are skipped.

    Args:
        bundles: bundles of one model, the inspected bundle first.
        source: the images.
        profile: the setting of the inspected bundle; None for a model without profiles. The other bundles run at their
            profile of the same name.
        after_batch: called after each batch with its number of images.
        name: name of the npz file or folder.

    Raises:
        ImageError: the images don't fill a routing group.
        VmoeError: the images don't fit the model, or a bundle can't be run with the profile.
    """
    first, *others = engines = [each.engine for each in bundles]
    manifest, setting = first.manifest, None if profile is None else profile.name
    has_top1 = manifest.output == "logits"
    known = source.labels if has_top1 else None
    statistics = RoutingStatistics(None if known is None else manifest.outputs)
    counts = [AgreementCount(has_top1=has_top1) for _ in others]
    multiple, right = int(np.lcm.reduce([engine.manifest.batch_multiple for engine in engines])), 0
    whole, size = len(source) // multiple * multiple, -(-_IMAGES_PER_CALL // multiple) * multiple
    if not whole:
        raise ImageError(f"a group needs {multiple} images, but there are only {len(source)}")
    for start in range(0, whole, size):
        chosen = slice(start, min(start + size, whole))
        pictures = source.images[chosen]
        batch = to_batch(pictures, manifest.input)
        labels = None if known is None else known[chosen]
        outputs, routing = first.logits_and_routing(batch, setting)
        statistics.add(routing, len(batch), labels)
        right += 0 if labels is None else int(np.count_nonzero(outputs.argmax(axis=1) == labels))
        for engine, count in zip(others, counts, strict=True):
            same_input = engine.manifest.input == manifest.input
            theirs = engine.logits_and_routing(batch if same_input else pictures, setting)
            count.add(outputs, theirs[0], routing, theirs[1])
        after_batch(len(batch))
    found = tuple(
        OtherBundle(
            each.name, each.engine.manifest.precision, each.engine.manifest.group, each.engine.backend_description,
            count.result(),
        )
        for each, count in zip(bundles[1:], counts, strict=True)
    )  # fmt: skip
    return ImageReport(
        images=whole,
        top1=None if known is None else right / whole,
        layers=statistics.layers(),
        others=found,
        bundle=bundles[0].name,
        source=name,
        left_over=len(source) - whole,
        labelled=known is not None,
        class_names=manifest.class_names,
        backend=first.backend_description,
        group=manifest.group,
        profile=profile,
        notes=tuple(_notes(manifest, source)),
    )


def _notes(manifest: Manifest, source: ImageSource) -> list[str]:
    """Return sentences about this kind of model, and about missing information."""
    notes = []
    if not manifest.moe_layers:
        notes.append(NO_ROUTERS)
    elif manifest.rules.kind == "soft":
        notes.append(
            "A Soft MoE drops nothing: every expert has a share of every patch, and loads are sums of these shares."
        )
    elif manifest.rules.kind == "experts-choice":
        notes.append("With expert choice the experts choose their tokens: all have the same load.")
    if source.note is not None:
        notes.append(f"{source.note[0].upper()}{source.note[1:]}.")
    elif source.labels is None and manifest.moe_layers:
        notes.append("Without labels, the classes of each expert are unknown.")
    return notes
