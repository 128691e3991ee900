"""Charts of the experts of each MoE layer: loads, gates, and which classes they are for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vmoe_tools.inspect.labels import class_name, layer_name
from vmoe_tools.inspect.statistics import BINS, LayerStatistics

Array = np.ndarray[Any, np.dtype[Any]]

_KEPT, _DROPPED = "#0072b2", "#b0b0b0"
_MOST_COLUMNS = 5
_MOST_NAMED_CLASSES = 40
_MOST_TICKS = 11
_LONGEST_NAME = 32


def chart_loads(layers: Mapping[str, LayerStatistics]) -> Figure:
    """For each layer the pairs that each expert kept, and on top of them those that it dropped, where that is known."""
    figure, panels = _panels(len(layers), 2.4, 2.1, sharey=True)
    for axes, (name, layer) in zip(panels, layers.items(), strict=True):
        experts = np.arange(len(layer.load))
        axes.bar(experts, layer.load, color=_KEPT, width=0.8, label="kept")
        if layer.asked is not None:
            axes.bar(experts, layer.asked - layer.load, bottom=layer.load, color=_DROPPED, width=0.8, label="dropped")
        axes.axhline(layer.load.mean(), color="#d55e00", linewidth=1.0, linestyle="--", label="even load")
        axes.set_title(f"{layer_name(name)}, entropy {layer.load_entropy:.3f}", fontsize=8)
        _number_experts(axes, len(layer.load))
        axes.tick_params(labelsize=7)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter("{x:,.0f}")
    what = "shares of tokens" if _kind(layers) == "soft" else "(token, choice) pairs"
    figure.suptitle(f"Load of each expert, in {what}", fontsize=10)
    _legend(figure, panels[0])
    figure.supxlabel("expert", fontsize=8)
    return figure


def chart_gates(layers: Mapping[str, LayerStatistics]) -> Figure:
    """For each layer how many pairs have which gate, kept ones and on top of them dropped ones."""
    figure, panels = _panels(len(layers), 2.4, 2.1, sharey=True)
    edges = np.linspace(0, 1, BINS + 1)
    for axes, (name, layer) in zip(panels, layers.items(), strict=True):
        total = max(int(layer.gates_kept.sum() + layer.gates_dropped.sum()), 1)
        kept, dropped = layer.gates_kept / total, layer.gates_dropped / total
        axes.bar(edges[:-1], kept, 1 / BINS, align="edge", color=_KEPT, edgecolor="white", linewidth=0.3, label="kept")
        if layer.kind != "soft":
            axes.bar(
                edges[:-1], dropped, 1 / BINS, bottom=kept, align="edge", color=_DROPPED, edgecolor="white", linewidth=0.3,
                label="dropped",
            )  # fmt: skip
        axes.set(xlim=(0, 1))
        axes.set_title(layer_name(name), fontsize=8)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(labelsize=7)
    what = "shares of experts in a token" if _kind(layers) == "soft" else "gates"
    figure.suptitle(f"How large the {what} are, in shares of all", fontsize=10)
    figure.supxlabel("share" if _kind(layers) == "soft" else "gate", fontsize=8)
    _legend(figure, panels[0])
    return figure


def chart_classes(layers: Mapping[str, LayerStatistics], class_names: Sequence[str] | None) -> Figure:
    """For each layer the mean routing weight as a colour: experts across, classes down.

    Many classes are ordered by their heaviest expert, in each layer on its own, as nobody could read their names.
    """
    weights = {name: layer.class_weight for name, layer in layers.items() if layer.class_weight is not None}
    first = next(iter(weights.values()))
    shown = np.flatnonzero(~np.isnan(first).all(axis=1))
    named = len(shown) <= _MOST_NAMED_CLASSES
    longest = max((len(_class(int(index), class_names)) for index in shown), default=1) if named else 1
    wide = max(0.16 * first.shape[1], 1.2) + 0.065 * longest + 0.35
    tall = max(0.16 * len(shown) + 0.5, 1.6) if named else 3.2
    figure, panels = _panels(len(weights), min(wide, 4.2), tall)
    largest = max(float(np.nanmax(weight)) for weight in weights.values())
    for axes, (name, weight) in zip(panels, weights.items(), strict=True):
        rows = weight[shown]
        order = np.arange(len(rows)) if named else np.lexsort((-rows.max(axis=1), rows.argmax(axis=1)))
        image = axes.imshow(rows[order], aspect="auto", cmap="viridis", vmin=0, vmax=largest, interpolation="nearest")
        axes.set_title(layer_name(name), fontsize=8)
        _number_experts(axes, rows.shape[1])
        axes.tick_params(labelsize=6.5, length=2)
        if named:
            axes.set_yticks(range(len(shown)), [_class(int(index), class_names) for index in shown])
        else:
            axes.set_yticks([])
    bar = figure.colorbar(image, ax=panels, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("mean routing weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle("Which classes go to which experts", fontsize=10)
    figure.supxlabel("expert", fontsize=8)
    figure.supylabel("class" if named else f"{len(shown):,} classes, ordered by their heaviest expert", fontsize=8)
    return figure


def _panels(count: int, wide: float, tall: float, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, each of so many inches, at most five side by side."""
    rows = math.ceil(count / _MOST_COLUMNS)
    columns = math.ceil(count / rows)
    figure = Figure((max(columns * wide, 3.6) + 1.1, rows * tall + 0.9), layout="constrained")
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _number_experts(axes: Axes, experts: int) -> None:
    step = math.ceil(experts / _MOST_TICKS)
    axes.set_xticks(range(0, experts, step))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7, frameon=False)


def _kind(layers: Mapping[str, LayerStatistics]) -> str:
    return next(iter(layers.values())).kind


def _class(index: int, class_names: Sequence[str] | None) -> str:
    return class_name(index, class_names, _LONGEST_NAME)
