"""The PNG pictures beside a page: accuracy, patches, experts. Needs matplotlib."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vmoe_tools.bench.plot import draw, write_picture
from vmoe_tools.command_line import printable
from vmoe_tools.inspect.labels import class_name
from vmoe_tools.report.contents import Report, SettingContents
from vmoe_tools.report.words import real_ratio

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_SAMPLES = 6
_MOST_RATIOS = 6
_MOST_LAYERS = 6
_MOST_NAMED_CLASSES = 30
_LONGEST_NAME = 40
_INCHES_OF_A_LETTER = 0.055
_GREY = 0.5
_SIDE_INCHES = 1.35
_LEAST_INCHES = 3.2  # that a title takes


def draw_pictures(report: Report, paths: dict[str, Path]) -> list[Path]:
    """Draws what there is to draw.

    Args:
        report: what to draw.
        paths: of the files by what they show: "accuracy", "patches" and "experts".

    Returns:
        Those that were written.

    Raises:
        CommandError: one can't be written.
    """
    written = [paths["accuracy"]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font doesn't have
        draw([*report.points, *report.cascades], paths["accuracy"])
        for name, figure in (("patches", _patches(report)), ("experts", _experts(report))):
            if figure is not None:
                write_picture(figure, paths[name])
                written.append(paths[name])
    return written


def decoded_patches(report: Report, setting: SettingContents) -> Array | None:
    """What `SettingContents.patches` says: [layers,samples,rows,columns], 0 for a dropped patch, else 1 + its expert."""
    if setting.patches is None or report.grid is None:
        return None
    raw = np.frombuffer(base64.b64decode(setting.patches), f"<u{report.patch_bytes}")
    return raw.reshape(len(report.layers), len(report.samples), *report.grid)


def _patches(report: Report) -> Figure | None:
    """Samples down, capacity ratios across, dropped patches of the first MoE layer in grey."""
    curve = next(curve for curve in report.curves if report.start in curve.points)
    settings = {setting.point: setting for setting in report.settings}
    places = _spread(curve.points, _MOST_RATIOS)
    masks = [decoded_patches(report, settings[place]) for place in places]
    samples = report.samples[:_MOST_SAMPLES]
    if not samples or any(mask is None for mask in masks):
        return None
    wide = max(_SIDE_INCHES * len(places), _LEAST_INCHES)
    figure = Figure((wide, _SIDE_INCHES * len(samples) + 0.9), layout="constrained")
    axes = figure.subplots(len(samples), len(places), squeeze=False)
    for row, sample in enumerate(samples):
        picture = _picture(sample.picture)
        for column, (place, mask) in enumerate(zip(places, masks, strict=True)):
            assert mask is not None
            axes[row, column].imshow(_greyed(picture, mask[0, row] == 0))
            axes[row, column].set_axis_off()
            if row == 0:
                axes[row, column].set_title(_ratio(report, place), fontsize=9)
    figure.suptitle(f"Patches that {report.layers[0]} processes,\n{curve.title}", fontsize=10)
    return figure


def _experts(report: Report) -> Figure | None:
    """Experts by class for each MoE layer; without labels the load of each expert by layer.

    Many classes are ordered by their heaviest expert, in each layer on its own, as nobody could read their names.
    """
    found = report.class_map
    if found is None:
        return _loads(report)
    count = min(len(report.layers), _MOST_LAYERS)
    named = len(found.classes) <= _MOST_NAMED_CLASSES
    labels = [_label(place, found.classes) for place in range(len(found.classes))] if named else []
    wide = max((len(label) for label in labels), default=0) * _INCHES_OF_A_LETTER
    figure = Figure((2.4 * count + 0.8 + wide, 3.6), layout="constrained")
    (axes,) = figure.subplots(1, count, squeeze=False, sharey=True)
    for axis, layer, weight in zip(axes, report.layers, found.weight, strict=False):
        rows = np.array(weight)
        order = range(len(rows)) if named else np.lexsort((-rows.max(axis=1), rows.argmax(axis=1)))
        axis.imshow(rows[order], aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
        axis.set_title(layer, fontsize=9)
        axis.set_xlabel("expert")
    if named:
        axes[0].set_yticks(range(len(labels)), labels=labels, fontsize=8)
    else:
        axes[0].set_yticks([])
        axes[0].set_ylabel(f"{len(found.classes):,} classes, ordered by their heaviest expert", fontsize=8)
    figure.suptitle(f"Mean routing weight by class at {report.points[found.point].profile}", fontsize=10)
    return figure


def _label(place: int, classes: Sequence[str]) -> str:
    """A name that matplotlib takes for no formula, and that leaves room for the picture."""
    return printable(class_name(place, classes, _LONGEST_NAME)).replace("$", r"\$")


def _ratio(report: Report, place: int) -> str:
    """The capacity ratio of a point, and what its whole places come to where that is another one."""
    asked = report.points[place].capacity_ratio
    real = real_ratio(asked, report.effective[place])
    return f"C = {asked:g}" if real is None else f"C = {asked:g}\nplaces of {real}"


def _loads(report: Report) -> Figure | None:
    setting = next(setting for setting in report.settings if setting.point == report.start)
    loads = np.array([[np.nan if share is None else share for share in layer.load] for layer in setting.layers])
    if not loads.size:
        return None
    figure = Figure((6.0, 0.4 * len(loads) + 1.4), layout="constrained")
    axis = figure.subplots()
    colours = axis.imshow(loads, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    axis.set_yticks(range(len(report.layers)), labels=report.layers, fontsize=8)
    axis.set_xlabel("expert")
    figure.colorbar(colours, label="share of kept pairs")
    figure.suptitle(f"Load of the experts at {report.points[report.start].profile}", fontsize=10)
    return figure


def _spread(places: Sequence[int], most: int) -> list[int]:
    """At most so many of them, the first and last among them."""
    chosen = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
    return [places[index] for index in chosen]


def _picture(uri: str) -> Array:
    """f64[H,W,3] in 0 to 1 of a `data:` address."""
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    return np.asarray(image) / 255


def _greyed(picture: Array, dropped: Array) -> Array:
    height, width = picture.shape[:2]
    rows = np.arange(height) * dropped.shape[0] // height
    columns = np.arange(width) * dropped.shape[1] // width
    veil = dropped[rows][:, columns, None]
    grey: Array = np.where(veil, 0.15 * picture + 0.85 * _GREY, picture)
    return grey
