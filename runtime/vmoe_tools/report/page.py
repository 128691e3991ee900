"""The page: one HTML file that has everything in it and loads nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vmoe_runtime import __version__
from vmoe_tools.bench.report import PointReport
from vmoe_tools.inspect.expert_colours import expert_colours
from vmoe_tools.report import words
from vmoe_tools.report.charts import HEIGHT, WIDTH, drawing
from vmoe_tools.report.colours import heat_colour, text_on
from vmoe_tools.report.contents import ClassMap, CurveContents, Report, SettingContents
from vmoe_tools.report.figures import charts_of, keys_of

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_ROWS = 40  # of a class map that is a table; a larger one is a picture
_MOST_NUMBERS = 16  # of experts below it
_HEATS = 100


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
        drawings=[placed for placed in drawings if placed is not None],
        keys=keys_of(report),
        width=WIDTH,
        height=HEIGHT,
        start=report.points[report.start],
        own_curves=_own_curves(report),
        rows=_rows(report),
        numbered=range(0, report.experts, math.ceil(report.experts / _MOST_NUMBERS)),
        is_table=data["classMap"] is not None and len(data["classMap"]["classes"]) <= _MOST_ROWS,
    )
    # Names may hold halves of characters, which no encoding has.
    return html.encode("utf-8", "backslashreplace").decode()


def page_data(report: Report) -> dict[str, Any]:
    """What the page's script shows: the settings of the first bundle by curve and step."""
    settings = {setting.point: setting for setting in report.settings}
    curves = {}
    for curve in _own_curves(report):
        curves[curve.kind] = [
            {
                "step": step,
                **_numbers(report.points[place]),
                "real": words.real_ratio(report.points[place].capacity_ratio, report.effective[place]),
                "same": report.same[place],
                **_plain(settings[place]),
            }
            for place, step in zip(curve.points, curve.steps, strict=True)
        ]
    start = next(curve for curve in _own_curves(report) if report.start in curve.points)
    return {
        "ratios": report.ratios,
        "curves": curves,
        "titles": {curve.kind: curve.title for curve in _own_curves(report)},
        "kind": start.kind,
        "step": start.steps[start.points.index(report.start)],
        "layers": report.layers,
        "experts": report.experts,
        "colours": expert_colours(report.experts),
        "grid": report.grid,
        "patchBytes": report.patch_bytes,
        "knowsEntropy": any(layer.gate_entropy is not None for setting in report.settings for layer in setting.layers),
        "labels": [sample.label for sample in report.samples],
        "classMap": _class_map(report.class_map),
        "heats": [(colour, text_on(colour)) for heat in range(_HEATS + 1) for colour in [heat_colour(heat / _HEATS)]],
    }


def _class_map(found: ClassMap | None) -> dict[str, Any] | None:
    """The classes that the settings tell of; None without any."""
    if found is None or not found.followed:
        return None
    return {
        "classes": [found.classes[place] for place in found.followed],
        "images": [found.images[place] for place in found.followed],
    }


def _rows(report: Report) -> list[tuple[PointReport, float | None, float | None]]:
    return list(zip(report.points, report.effective, report.same, strict=True))


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
            "entropy": layer.gate_entropy,
            "gates": [layer.gates_kept, layer.gates_dropped],
        }
        for layer in setting.layers
    ]
    return {
        "places": setting.places,
        "layers": layers,
        "answers": setting.answers,
        "patches": setting.patches,
        "classes": setting.classes,
    }


def _own(name: str) -> Markup:
    """A file of ours that stands in the page as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
