"""The page: one HTML file that has everything in it and loads nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from vmoe_bench.report import PointReport
from vmoe_report import words
from vmoe_report.charts import HEIGHT, WIDTH, drawing
from vmoe_report.colours import expert_colours, heat_colour, text_on
from vmoe_report.contents import ClassMap, CurveContents, Report, SettingContents
from vmoe_report.figures import charts_of, line_of
from vmoe_runtime.version import __version__

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_ROWS = 40  # of a class map that is a table; a larger one is a picture
_CLASSES_OF_AN_EXPERT = 5


def render_page(report: Report) -> str:
    """The HTML of a report. Whatever a bundle or a path says is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": words.percent}
    drawings = [drawing(chart) for chart in charts_of(report)]
    data = page_data(report)
    html = environment.get_template("page.html.j2").render(
        report=report,
        words=words,
        version=__version__,
        style=_own("page.css"),
        script=_own("page.js"),
        data=data,
        gates=data["gates"],
        drawings=[placed for placed in drawings if placed is not None],
        keys=[line_of(report, curve) for curve in report.curves],
        width=WIDTH,
        height=HEIGHT,
        start=report.points[report.start],
        own_curves=_own_curves(report),
        rows=_rows(report),
        maps=class_maps(report.class_map, report.layers),
    )
    # Names may hold halves of characters, which no encoding has.
    return html.encode("utf-8", "backslashreplace").decode()


def page_data(report: Report) -> dict[str, Any]:
    """What the page's script shows: the settings of the first bundle by curve and step."""
    settings = {setting.point: setting for setting in report.settings}
    curves = {}
    for curve in _own_curves(report):
        curves[curve.kind] = [
            {"step": step, **_numbers(report.points[place]), "same": report.same[place], **_plain(settings[place])}
            for place, step in zip(curve.points, curve.steps, strict=True)
        ]
    start = next(curve for curve in _own_curves(report) if report.start in curve.points)
    return {
        "ratios": report.ratios,
        "curves": curves,
        "kind": start.kind,
        "step": start.steps[start.points.index(report.start)],
        "layers": report.layers,
        "experts": report.experts,
        "colours": expert_colours(report.experts),
        "grid": report.grid,
        "patchBytes": report.patch_bytes,
        "gates": any(layer.gate_entropy is not None for setting in report.settings for layer in setting.layers),
        "labels": [sample.label for sample in report.samples],
    }


def class_maps(found: ClassMap | None, layers: Sequence[str]) -> list[dict[str, Any]]:
    """For each MoE layer its map of experts by class: rows of cells, or a picture where there are many classes."""
    if found is None:
        return []
    maps = []
    for layer, weights in zip(layers, found.weight, strict=True):
        table = np.array(weights)
        most = float(table.max(initial=0)) or 1.0
        order = np.lexsort((-table.max(axis=1), table.argmax(axis=1)))
        small = len(table) <= _MOST_ROWS
        maps.append(
            {
                "layer": layer,
                "most": most,
                "rows": [_heat_row(found, index, table[index], most) for index in range(len(table))] if small else [],
                "picture": None if small else _heat_picture(table[order], most),
                "favourites": _favourites(found, table),
            }
        )
    return maps


def _heat_row(found: ClassMap, index: int, weights: Any, most: float) -> dict[str, Any]:
    colours = [heat_colour(float(weight) / most) for weight in weights]
    cells = [
        {"text": f"{weight * 100:.0f}", "colour": colour, "ink": text_on(colour)}
        for weight, colour in zip(weights, colours, strict=True)
    ]
    return {"name": found.classes[index], "images": found.images[index], "cells": cells}


def _heat_picture(table: Any, most: float) -> str:
    pixels = [[bytes.fromhex(heat_colour(float(weight) / most)[1:]) for weight in row] for row in table]
    file = io.BytesIO()
    Image.fromarray(np.array([[list(pixel) for pixel in row] for row in pixels], np.uint8)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _favourites(found: ClassMap, table: Any) -> list[list[str]]:
    """For each expert the classes that it weighs most in, the first one first."""
    best = [[index for index in np.argsort(-column, kind="stable") if column[index] > 0] for column in table.T]
    return [[found.classes[index] for index in order[:_CLASSES_OF_AN_EXPERT]] for order in best]


def _rows(report: Report) -> list[tuple[PointReport, float | None]]:
    return list(zip(report.points, report.same, strict=True))


def _own_curves(report: Report) -> list[CurveContents]:
    return [curve for curve in report.curves if curve.bundle == report.bundles[0].name]


def _numbers(point: PointReport) -> dict[str, Any]:
    return {
        "profile": point.profile,
        "top1": point.top1,
        "speed": point.images_per_second,
        "kept": point.kept_pairs,
        "flops": point.flops_per_image,
    }


def _plain(setting: SettingContents) -> dict[str, Any]:
    layers = [
        {
            "load": layer.load,
            "dropped": layer.expert_dropped,
            "pairs": layer.pairs_dropped,
            "patches": layer.patches_dropped,
            "even": layer.load_entropy,
            "gates": layer.gate_entropy,
        }
        for layer in setting.layers
    ]
    return {"places": setting.places, "layers": layers, "answers": setting.answers, "patches": setting.patches}


def _own(name: str) -> Markup:
    """A file of ours that stands in the page as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
