"""Run an exported MNIST bundle on the test images at every capacity ratio, and plot accuracy against capacity.

python samples/mnist/demo.py demo/mnist.vmoe --picture demo/accuracy.png
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vmoe_measure.timing import summarize, time_interleaved
from vmoe_runtime import Engine

HERE = Path(__file__).parent
RATIOS = (0.1, 0.2, 0.3, 0.5, 1.05, 2.0)
Result = dict[tuple[float, int, bool], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="bundle of samples/mnist/vmoe_mnist, exported with --group 16")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--picture", type=Path, help="PNG file for the plot")
    arguments = parser.parse_args()
    with np.load(HERE / "test_data.npz") as data:
        images, labels = data["images"], data["labels"]
    with Engine.load(arguments.bundle, backend=arguments.backend) as engine:
        Console(markup=False).print(f"{len(images)} test images, {engine.backend_description}")
        accuracy = compare(engine, images, labels)
    if arguments.picture:
        draw(accuracy, arguments.picture)
        Console(markup=False).print(f"Drew {arguments.picture}")


def compare(engine: Engine, images: np.ndarray, labels: np.ndarray) -> Result:
    """Print and return the accuracy at each (capacity ratio, k, bpr).

    The printed table also shows the official model's accuracy.
    """
    settings = [engine.setting(capacity=ratio, k=k, bpr=bpr) for k in (1, 2) for bpr in (True, False) for ratio in RATIOS]
    times = time_interleaved([partial(engine, images[:256], setting) for setting in settings], duration=0)
    table = Table()
    for column in ("profile", "accuracy", "official", "same answers", "images/s"):
        table.add_column(column, justify="left" if column == "profile" else "right")
    accuracy: Result = {}
    with np.load(HERE / "reference.npz") as reference:
        for setting, seconds in zip(settings, times, strict=True):
            answers = engine(images, setting).argmax(axis=1)
            order = "bpr" if setting.bpr else "vanilla"
            official = reference[f"pred_K{setting.k}_C{setting.capacity_ratio}_{order}"]
            accuracy[setting.capacity_ratio, setting.k, setting.bpr] = float((answers == labels).mean())
            table.add_row(
                setting.name,
                f"{(answers == labels).mean():.2%}",
                f"{(official == labels).mean():.2%}",
                f"{(answers == official).sum()} of {len(labels)}",
                f"{summarize(seconds, 256).images_per_second:,.0f}",
                end_section=setting.capacity_ratio == RATIOS[-1],
            )
    Console().print(table)
    return accuracy


def draw(accuracy: Result, path: Path) -> None:
    """Plot accuracy against capacity ratio, with Batch Priority Routing and in vanilla order, for k = 1 and 2."""
    from matplotlib.figure import Figure

    figure = Figure((8, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for k, colour in ((1, "#d1495b"), (2, "#00798c")):
        for bpr, style in ((True, "-"), (False, "--")):
            values = [100 * accuracy[ratio, k, bpr] for ratio in RATIOS]
            label = f"K = {k}, {'Batch Priority Routing' if bpr else 'vanilla'}"
            axes.plot(RATIOS, values, style, color=colour, marker="o", markersize=4, label=label)
    axes.set_xscale("log")
    axes.set_xticks(RATIOS, [f"{ratio:g}" for ratio in RATIOS])
    axes.minorticks_off()
    axes.set_xlabel("capacity ratio")
    axes.set_ylabel("accuracy on 1,536 test images, %")
    bpr, vanilla = (100 * accuracy[0.3, 2, order] for order in (True, False))
    title = f"V-MoE on MNIST at capacity 0.3: {bpr:.1f} % with Batch Priority Routing, {vanilla:.1f} % in vanilla order"
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="y", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
