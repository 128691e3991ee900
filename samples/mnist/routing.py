"""What pooling places and limiting experts do to the MNIST model: accuracy over kept pairs, and over experts per image.

python samples/mnist/routing.py demo/mnist-alone.vmoe --picture demo/routing.png

Takes a bundle of samples/mnist/vmoe_mnist in which every image is a routing group of its own, `--group image`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vmoe_runtime import Engine, Setting

HERE = Path(__file__).parent
RATIOS = (0.1, 0.2, 0.45, 0.6, 0.8, 1.05)
ORDERS = {
    "BPR": Setting(bpr=True, pool=False),
    "vanilla": Setting(bpr=False, pool=False),
    "pool": Setting(bpr=True, pool=True),
}
LIMITED = Setting(capacity=0.2, k=1, pool=True)
"""The setting at which the experts of an image are limited."""


@dataclass(frozen=True)
class Point:
    """One setting: right answers as a share of the images, and kept pairs per token and MoE layer."""

    profile: str
    accuracy: float
    kept: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="bundle of samples/mnist/vmoe_mnist, exported with --group image")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    arguments = parser.parse_args()
    with np.load(HERE / "test_data.npz") as data:
        images, labels = data["images"], data["labels"]
    console = Console(markup=False)
    with Engine.load(arguments.bundle, backend=arguments.backend) as engine:
        console.print(f"{len(images)} test images, each a group of its own; {engine.backend_description}")
        orders = {
            name: [measure(engine, images, labels, order, capacity=ratio, k=1) for ratio in RATIOS]
            for name, order in ORDERS.items()
        }
        limits = range(1, 9)
        limited = [measure(engine, images, labels, LIMITED, max_experts=limit) for limit in limits]
        times = milliseconds(engine, images[:1], [point.profile for point in limited])
    console.print(orders_table(orders))
    console.print(limits_table(limited, times))
    if arguments.picture:
        draw(orders, limited, times, arguments.picture)
        console.print(f"Drew {arguments.picture}")


def measure(engine: Engine, images: np.ndarray, labels: np.ndarray, setting: Setting, **fields: float) -> Point:
    """Accuracy and kept pairs at a setting with some fields replaced."""
    profile = engine.setting(setting, **fields)
    answers = engine(images, profile.name).argmax(axis=1)
    kept = np.mean([route.kept.sum(axis=2).mean() for route in engine.routing(images, profile.name).values()])
    return Point(profile.name, float((answers == labels).mean()), float(kept))


def milliseconds(engine: Engine, image: np.ndarray, profiles: Sequence[str], rounds: int = 200) -> Mapping[str, float]:
    """Median time of a call with one image; the profiles take turns, so that a busy moment hits all alike."""
    seconds: dict[str, list[float]] = {profile: [] for profile in profiles}
    for _ in range(rounds):
        for profile in profiles:
            start = time.perf_counter()
            engine(image, profile)
            seconds[profile].append(time.perf_counter() - start)
    return {profile: 1000 * float(np.median(times)) for profile, times in seconds.items()}


def orders_table(orders: Mapping[str, Sequence[Point]]) -> Table:
    table = Table(title="k = 1: accuracy, and kept pairs per token in brackets", title_justify="left")
    table.add_column("capacity ratio", justify="right")
    for name in orders:
        table.add_column(name, justify="right")
    for i, ratio in enumerate(RATIOS):
        points = (points[i] for points in orders.values())
        table.add_row(f"{ratio:g}", *(f"{point.accuracy:.1%} ({point.kept:.3f})" for point in points))
    return table


def limits_table(limited: Sequence[Point], times: Mapping[str, float]) -> Table:
    table = Table()
    for column in ("profile", "accuracy", "kept pairs per token", "ms for one image"):
        table.add_column(column, justify="left" if column == "profile" else "right")
    for point in limited:
        table.add_row(point.profile, f"{point.accuracy:.1%}", f"{point.kept:.3f}", f"{times[point.profile]:.2f}")
    return table


def draw(orders: Mapping[str, Sequence[Point]], limited: Sequence[Point], times: Mapping[str, float], path: Path) -> None:
    """Accuracy over kept pairs for each order; accuracy and time of one image over the experts that it may use."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), dpi=150, layout="constrained")
    for (name, points), colour in zip(orders.items(), ("#d1495b", "#8d8d8d", "#00798c"), strict=True):
        left.plot([p.kept for p in points], [100 * p.accuracy for p in points], color=colour, marker="o", label=name)
    left.set_xlabel("kept pairs per token and layer")
    left.set_ylabel("accuracy on 1,536 test images, %")
    left.set_title("k = 1, each image a group of its own", fontsize=10, loc="left")
    left.legend(frameon=False, loc="lower right")
    limits = range(1, len(limited) + 1)
    right.plot(limits, [100 * p.accuracy for p in limited], color="#00798c", marker="o", label="accuracy")
    right.set_xlabel("experts that an image may use (max_experts)")
    right.set_ylabel("accuracy, %")
    right.set_title("pool, capacity 0.2, k = 1", fontsize=10, loc="left")
    time_axis = right.twinx()
    time_axis.plot(limits, [times[p.profile] for p in limited], "--", color="#d1495b", label="time")
    time_axis.set_ylabel("ms for one image (dashed)")
    time_axis.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(axis="y", color="#dddddd")
    for axes in (left, right, time_axis):
        axes.spines["top"].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
