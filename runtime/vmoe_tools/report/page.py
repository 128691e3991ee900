"""The page of a report: one HTML file that loads nothing else, with PNG pictures next to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vmoe_runtime import __version__
from vmoe_tools import charts
from vmoe_tools.bench.display import numbers_of, ratios_to
from vmoe_tools.bench.point_result import PointResult
from vmoe_tools.charts import ACCURACY, CAPACITY, COMPUTE, KEPT_PAIRS, TIME, Scale, data_address, line_chart, overview
from vmoe_tools.output import plain
from vmoe_tools.patch_pictures import expert_colours, picture_capacities
from vmoe_tools.report import words
from vmoe_tools.report.collect import Collected
from vmoe_tools.report.contents import Report, SettingContents
from vmoe_tools.terminal import number_text, share_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_SITE = Path(__file__).parents[1] / "page/site"
_STYLES = (_SITE / "base.css", _TEMPLATES / "page.css")
_SCRIPTS = (_SITE / "patches.js", _TEMPLATES / "page.js")
_EXPORT = re.compile(r"^export (?=(?:async|class|const|function|let) )", re.MULTILINE)
_SPEED = Scale("images per second", lambda point: point.images_per_second, from_zero=True)


@dataclass(frozen=True)
class Picture:
    """A chart on the page: its title, its caption, its `data:` URL, its alternative text, and whether it is wide."""

    title: str
    caption: str
    address: str
    text: str
    wide: bool = False


def render_page(collected: Collected, class_names: tuple[str, ...] | None) -> str:
    """Render the HTML of a report. All text that comes from bundles and paths is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": words.percent}
    report = collected.report
    numbers = numbers_of(report.points)
    html = environment.get_template("page.html.j2").render(
        report=report,
        words=words,
        version=__version__,
        style=Markup("".join(path.read_text(encoding="utf-8") for path in _STYLES)),
        script=Markup("".join(inlined(path.read_text(encoding="utf-8")) for path in _SCRIPTS)),
        data=plain(_data(report)),
        curves=list(_curve_charts(report)),
        experts=list(_expert_charts(collected, class_names)),
        covered=_covered(collected),
        start=report.points[report.start],
        ratios_to=ratios_to(report.points),
        setting_heads=["setting", "bundle", "effective ratio", "same answers", *numbers],
        setting_rows=[
            [point.name, point.bundle, number_text(effective, ".3g"), share_text(same)]
            + [cell(point) for cell in numbers.values()]
            for point, effective, same in zip(report.points, report.effective, report.same, strict=True)
        ],
        cascade_heads=["first", "then", "bundle", "margin", "escalated", *numbers],
        cascade_rows=[
            [pair.profile, pair.then, pair.bundle, _margin(pair), share_text(pair.escalated)]
            + [cell(pair) for cell in numbers.values()]
            for pair in report.cascades
        ],
    )
    # Names may contain unpaired surrogates, which cannot be encoded.
    return html.encode("utf-8", "backslashreplace").decode()


def inlined(module: str) -> str:
    """Return a JavaScript module's source without the keyword `export`, so that another script can contain it.

    Examples:
        >>> inlined('export const TEXT = "export it"; // for export \\n')
        'const TEXT = "export it"; // for export \\n'
    """
    return _EXPORT.sub("", module)


def pictures_of(collected: Collected, class_names: tuple[str, ...] | None) -> dict[str, Figure]:
    """Draw the pictures that are written next to the page.

    The pictures are "accuracy" and, if the model and the images allow them, "patches" and "experts".
    """
    report, layers = collected.report, collected.layers
    figures = {"accuracy": overview([*report.points, *report.faster_cascades])}
    if collected.samples is not None and report.layers:
        figures["patches"] = picture_capacities(collected.samples, report.layers[0], class_names)
    if layers:
        figures["experts"] = charts.chart_classes(layers, class_names) if report.labelled else charts.chart_loads(layers)
    return figures


def _covered(collected: Collected) -> str:
    """Return, as CSS, the size of the area that patches cover in a sample image.

    Pixels at the right and bottom may belong to no patch.
    """
    grid, samples = collected.report.grid, collected.samples
    if grid is None or samples is None:
        return ""
    sizes = zip(("height", "width"), grid, samples.patch_size, samples.pixels.shape[1:3], strict=True)
    return "; ".join(f"{name}: {count * side / pixels:.4%}" for name, count, side, pixels in sizes)


def _margin(pair: PointResult) -> str:
    return "all" if (pair.margin or 0) > 1 else number_text(pair.margin, ".4f")


def _curve_charts(report: Report) -> Iterator[Picture]:
    better = f"Up and to the left is better. {words.diamonds(report)}"
    faster = "Dashed lines connect the cascades that are faster than their second setting and that no other cascade beats. "
    better += faster * bool(report.faster_cascades)
    points, quality, caption = report.points, ACCURACY, "Share of correct answers."
    if report.labelled:
        better += "A star marks the Pareto front: nothing else is as fast and as accurate."
    elif any(share is not None for share in report.same):
        # Without labels, show the share of equal predictions instead of the accuracy.
        points = [replace(point, top1=same) for point, same in zip(points, report.same, strict=True)]
        quality = replace(ACCURACY, label="same answers")
        reference = points[report.curves[0].points[-1]].profile
        caption = f"Share of the images with the same answer as at {reference}, because there are no labels."
    else:
        quality, caption = KEPT_PAIRS, "Share of the pairs that got a slot, because there are no answers to compare."
    title = {"top-1": "Accuracy"}.get(quality.label, quality.label.capitalize())
    pictures = [
        (f"{title} against capacity", caption, CAPACITY, quality),
        (f"{title} against time", better, TIME, quality),
        (f"{title} against compute", better, COMPUTE, quality),
        ("Speed against capacity", "Batch size over the median time of a call; all settings alternate.", CAPACITY, _SPEED),
        ("Kept pairs against capacity", "Share of the (token, choice) pairs that got a slot.", CAPACITY, KEPT_PAIRS),
        ("Compute against capacity", "Matrix products; those of experts for kept pairs.", CAPACITY, COMPUTE),
    ]
    everything = [*points, *report.faster_cascades]
    for name, text, across, up in pictures:
        values, others = (
            [(points[i], value) for i in indices if (value := up.value(points[i])) is not None]
            for indices in (report.curves[0].points, report.others)
        )
        if values and across.value(values[0][0]):
            chart = data_address(line_chart(everything, across, up))
            yield Picture(name, text, chart, words.trend(report, values, others, name))


def _expert_charts(collected: Collected, class_names: tuple[str, ...] | None) -> Iterator[Picture]:
    report, layers = collected.report, collected.layers
    if not layers:
        return
    setting = report.points[report.start].profile
    dropped = "If more tokens choose an expert than fit, the rest are dropped."
    pictures = [
        ("Load of each expert", dropped, charts.chart_loads(layers)),
        ("Gates in each MoE layer", "Share of the pairs of a layer by their gate.", charts.chart_gates(layers)),
    ]
    if report.labelled:
        caption = "Mean routing weight: gates of kept pairs per token of the images of a class."
        pictures.append(("Which classes go to which expert", caption, charts.chart_classes(layers, class_names)))
    for title, caption, figure in pictures:
        yield Picture(title, caption, data_address(figure), f"{title} at {setting}, in {len(layers)} MoE layers", wide=True)


def _data(report: Report) -> dict[str, Any]:
    """Return the data for the page's script: the first bundle's settings, by curve."""
    settings = {setting.point: setting for setting in report.settings}
    start = next(index for index, curve in enumerate(report.own_curves) if report.start in curve.points)
    ratio = report.points[report.start].capacity_ratio
    return {
        "ratios": report.ratios,
        "curves": [[_setting(report, settings[index]) for index in curve.points] for curve in report.own_curves],
        "curve": start,
        "step": report.ratios.index(ratio or 0.0),
        "layers": report.layers,
        "colours": expert_colours(report.experts),
        "grid": report.grid,
        "patchBytes": report.patch_bytes,
        "samples": len(report.samples),
    }


def _setting(report: Report, setting: SettingContents) -> dict[str, Any]:
    point = report.points[setting.point]
    return {
        "profile": point.profile,
        "ratio": point.capacity_ratio,
        "effective": words.effective_ratio(point.capacity_ratio, report.effective[setting.point]),
        "slots": setting.slots,
        "top1": point.top1,
        "same": report.same[setting.point],
        "speed": point.images_per_second,
        "kept": point.kept_pairs,
        "flops": point.flops_per_image,
        "layers": [
            [layer[name] for name in ("pairs_dropped", "patches_dropped", "load_entropy", "gate_entropy")]
            for layer in setting.layers
        ],
        "answers": setting.answers,
        "patches": setting.patches,
    }
