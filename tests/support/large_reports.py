"""Reports of models as large as one likes, filled with random numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from test_sweep import point

from vmoe_runtime.profiles import Profile
from vmoe_tools.inspect.statistics import BINS, LayerStatistics
from vmoe_tools.report.contents import BundleContents, CurveContents, Report, Sample
from vmoe_tools.report.details import class_map, most_shown, setting_contents
from vmoe_tools.report.observer import Answers, Observed
from vmoe_tools.report.sample_images import data_uri
from vmoe_tools.report.size import patch_bytes, room_of

KINDS = ("bpr", "vanilla", "pool")


def observed(rng: np.random.Generator, images: np.ndarray, experts: int, layers: int, patches: tuple[int, ...]) -> Observed:
    """What nobody observed: as many images of each class as said, patches [samples, rows, columns]."""
    return Observed(
        Answers(rng.integers(0, len(images), patches[0]), rng.random(patches[0])),
        {
            f"encoderblock_{layer}": LayerStatistics(
                kind="top-k",
                images=int(images.sum()),
                load=rng.integers(0, 10**6, experts).astype(np.float64),
                asked=rng.integers(10**6, 10**7, experts),
                expert_dropped=rng.random(experts),
                pairs_dropped=0.5,
                patches_dropped=0.5,
                load_entropy=0.9,
                gate_entropy=0.5,
                gates_kept=rng.integers(10**6, 10**7, BINS),
                gates_dropped=rng.integers(10**6, 10**7, BINS),
                class_weight=np.where(images[:, None] > 0, rng.random((len(images), experts)), np.nan),
                class_images=images,
            )
            for layer in range(layers)
        },
        rng.integers(-1, experts, (layers, *patches)),
    )


def large_report(
    *, classes: int, experts: int = 32, layers: int = 24, ratios: int = 8, curves: int = 1, grid: int = 14, samples: int = 12
) -> Report:
    """A report with as much as its page has room for."""
    rng = np.random.default_rng(0)
    kinds = KINDS[:curves]
    places = range(ratios * curves)
    room = room_of(len(places), len(places), layers, experts, grid**2, samples)
    images = rng.integers(1, 50, classes)
    names = [f"a class with a name, {index}" for index in range(classes)]
    seen = {place: observed(rng, images, experts, layers, (room.samples, grid, grid)) for place in places}
    followed = most_shown(seen[0], room.classes)
    profiles = [Profile(f"c{place}", 0.1, 1, True, (7,) * layers, 0.1) for place in places]
    points = [replace(point(f"c{place}", 0.5, 10.0, 10**9), capacity_ratio=(place % ratios + 1) / 10) for place in places]
    labels = np.arange(room.samples) % classes
    pixels = rng.integers(0, 256, (room.samples, 224, 224, 3), dtype=np.uint8)
    return Report(
        command="vmoe-report",
        made="today",
        max_drop=0.01,
        machine={"backends": {}, "cpu": "a", "cores": 1, "os": "b", "vmoe_runtime": "c", "python": "d", "numpy": "e"},
        images="images.npz",
        labelled=True,
        bundles=(BundleContents("b", "fp32", "V-MoE", False, ()),),
        points=tuple(points),
        cascades=(),
        same=(0.5,) * len(points),
        effective=tuple(point.capacity_ratio for point in points),
        ratios=tuple((step + 1) / 10 for step in range(ratios)),
        curves=tuple(
            CurveContents("b", kind, kind, tuple(places)[at * ratios : (at + 1) * ratios], tuple(range(ratios)))
            for at, kind in enumerate(kinds)
        ),
        others=(),
        fall=None,
        recommended=None,
        start=0,
        experts=experts,
        layers=tuple(seen[0].layers),
        grid=(grid, grid),
        patch_bytes=patch_bytes(experts),
        samples=tuple(Sample(place, data_uri(picture), names[labels[place]]) for place, picture in enumerate(pixels)),
        settings=tuple(
            setting_contents(place, profiles[place], seen[place], range(room.samples), names, labels, followed)
            for place in places
        ),
        class_map=class_map(0, seen[0], names, followed),
        interference=None,
        agreements=(),
        notes=(),
        merged=(),
    )
