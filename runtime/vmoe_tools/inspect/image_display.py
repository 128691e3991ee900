"""How what routers do with images looks as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

import numpy as np
from rich.table import Table
from rich.text import Text

from vmoe_tools.bench.display import Progress, shown_number, shown_share
from vmoe_tools.command_line import printable
from vmoe_tools.inspect.image_report import ImageReport, Neighbours, OtherBundle
from vmoe_tools.inspect.labels import class_name
from vmoe_tools.inspect.sections import Row, one_line, open_console, plain_table, print_section
from vmoe_tools.inspect.statistics import LayerStatistics

_CLASSES_OF_AN_EXPERT = 3
_LONGEST_NAME = 32


def open_progress(stream: TextIO) -> Progress:
    """Bars for the steps of a run, where the stream is a terminal."""
    return Progress(stream)


def print_images(report: ImageReport, stream: TextIO, pictures: Sequence[str] = ()) -> None:
    """Prints a report, in sections of at most 80 columns where the stream is no terminal.

    Args:
        report: what to print.
        stream: where to.
        pictures: paths of the pictures that were drawn.
    """
    console = open_console(stream)
    print_section(console, report.bundle, _run(report), *(Text(printable(note)) for note in report.notes))
    if report.layers:
        print_section(console, "MoE layers", _layers(report))
    for name, layer in report.layers.items():
        print_section(console, name, _experts(layer, report.class_names))
    if report.others:
        print_section(console, f"Agreement with {report.bundle}", _agreement(report.others))
        if report.layers and report.others[0].agreement.same_experts:
            print_section(console, "Tokens that the same experts keep", _same_experts(report.others))
    if report.neighbours:
        title, text = "Interference: how far answers move with neighbours", _explanation(report.neighbours[0])
        print_section(console, title, _interference(report.neighbours), Text(text))
    if pictures:
        print_section(console, "Pictures", *(Text(one_line(picture), overflow="fold") for picture in pictures))


def _run(report: ImageReport) -> list[Row]:
    profile = report.profile
    setting = "-"
    if profile is not None:
        order = "" if profile.bpr is None else ", BPR" if profile.bpr else ", vanilla order"
        k = "" if profile.k is None else f", k {profile.k}"
        setting = f"{profile.name}: capacity ratio {profile.effective_ratio:.4g} in whole places{k}{order}"
    left = f", {report.left_over:,} left over that make no whole group" if report.left_over else ""
    labels = "with labels" if report.labelled else "without labels"
    return [
        ("runs on", one_line(report.backend)),
        ("profile", setting),
        ("group", one_line(report.group)),
        ("images", f"{report.images:,} of {one_line(report.source)}, {labels}{left}"),
        ("top-1", shown_share(report.top1)),
    ]


def _layers(report: ImageReport) -> Table:
    cells: dict[str, Callable[[LayerStatistics], str]] = {
        "pairs\ndropped": lambda layer: shown_share(layer.pairs_dropped),
        "patches\ndropped": lambda layer: shown_share(layer.patches_dropped),
        "largest load,\nof even": lambda layer: _times(layer.load.max(), layer.load.mean()),
        "smallest\nload": lambda layer: _times(layer.load.min(), layer.load.mean()),
        "entropy\nof load": lambda layer: shown_number(layer.load_entropy, ".3f"),
        "entropy\nof gates": lambda layer: shown_number(layer.gate_entropy, ".3f"),
    }
    table = plain_table()
    table.add_column("block", overflow="fold", min_width=8)
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    for name, layer in report.layers.items():
        table.add_row(printable(name), *(cell(layer) for cell in cells.values()))
    return table


def _experts(layer: LayerStatistics, class_names: Sequence[str] | None) -> Table:
    table = plain_table()
    columns = {"expert": True, "load": True, "share": True, "asked": True, "dropped": True}
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("" if layer.class_weight is None else "most for", overflow="fold")
    total = layer.load.sum()
    for expert, load in enumerate(layer.load):
        dropped = None if layer.expert_dropped is None else float(layer.expert_dropped[expert])
        table.add_row(
            str(expert),
            f"{load:,.1f}" if layer.kind == "soft" else f"{load:,.0f}",
            shown_share(float(load / total)) if total else "-",
            "-" if layer.asked is None else f"{layer.asked[expert]:,}",
            shown_share(dropped),
            _classes(layer, expert, class_names),
        )
    return table


def _classes(layer: LayerStatistics, expert: int, class_names: Sequence[str] | None) -> str:
    """The classes whose tokens have the most weight there."""
    if layer.class_weight is None:
        return ""
    weights = np.nan_to_num(layer.class_weight[:, expert])
    best = [index for index in np.argsort(-weights, kind="stable")[:_CLASSES_OF_AN_EXPERT] if weights[index] > 0]
    names = (printable(class_name(int(index), class_names, _LONGEST_NAME)) for index in best)
    return ", ".join(f"{name} ({weights[index]:.3f})" for name, index in zip(names, best, strict=True))


def _agreement(others: Sequence[OtherBundle]) -> Table:
    table = plain_table()
    table.add_column("bundle", overflow="fold", min_width=12)
    for name in ("precision", "group"):
        table.add_column(name, no_wrap=True)
    for name in ("same\ntop-1", "largest\ndifference", "mean\ndifference"):
        table.add_column(name, justify="right", no_wrap=True)
    for other in others:
        found = other.agreement
        difference = (f"{found.max_difference:.2g}", f"{found.mean_difference:.2g}")
        table.add_row(other.bundle, other.precision, one_line(other.group), shown_share(found.same_top1), *difference)
    return table


def _same_experts(others: Sequence[OtherBundle]) -> Table:
    table = plain_table()
    table.add_column("block", overflow="fold", min_width=8)
    for other in others:
        table.add_column(other.bundle, justify="right", overflow="fold")
    for name in others[0].agreement.same_experts:
        table.add_row(printable(name), *(shown_share(other.agreement.same_experts[name]) for other in others))
    return table


def _interference(neighbours: Sequence[Neighbours]) -> Table:
    table = plain_table()
    table.add_column("bundle", overflow="fold", min_width=12)
    table.add_column("group", no_wrap=True)
    for name in ("largest\ndifference", "mean\ndifference", "top-1\nchanged", "images\nchanged"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in neighbours:
        found = one.interference
        difference = (f"{found.max_difference:.2g}", f"{found.mean_difference:.2g}")
        changed = (shown_share(found.top1_changed), shown_share(found.images_changed))
        table.add_row(one.bundle, one_line(one.group), *difference, *changed)
    return table


def _explanation(one: Neighbours) -> str:
    found, others = one.interference, one.interference.images_per_call - 1
    rest = f"{others} other image{'s' * (others > 1)}"
    return (
        f"{found.images:,} images, each asked again {found.sets:,} times with {rest} in its batch, and held against its "
        "answer among the first ones."
    )


def _times(value: float, of: float) -> str:
    return f"{value / of:.2f}" if of else "-"
