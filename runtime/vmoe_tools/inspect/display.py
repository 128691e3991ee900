"""Functions that print a bundle's summary, the routing of images, and the comparison of settings on one picture."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vmoe_runtime.profiles import by_layer, slots_range
from vmoe_runtime.settings import ROWS, SettingRow
from vmoe_tools.inspect.image_run import NO_ROUTERS, ImageReport, OtherBundle
from vmoe_tools.inspect.one_picture import PictureReport, SettingAnswer
from vmoe_tools.inspect.statistics import LayerStatistics, class_name
from vmoe_tools.terminal import Row, number_text, one_line, print_section, share_text, table_of

_WIDTH_OF_A_LIST = 1000  # line width if the output is not a terminal; each tensor fits on one line
_DIGITS_OF_A_HASH = 16
_CLASSES_OF_AN_EXPERT = 3
_LONGEST_NAME = 32
_WIDTH = 78  # line width for grids of patches that are printed side by side
_SIGNS = string.digits + string.ascii_letters + "+."  # 0-9a-zA-Z: experts 0 to 61; +: other experts; .: dropped patches
_IN_NAMES = ("max\nexperts", "merge", "requested\nratio", "pool", "bpr", "k", "effective\nratio")
"""Columns to leave out first: profile names and slots contain the same information."""
_SPARE = ("entropy\nof gates", "smallest\nload", "entropy\nof load", "largest load,\nof mean")
_LEGEND = (
    "In each MoE layer, the expert of each patch (0-9, a-z, A-Z): of several, the one with the largest gate, or share in a "
    "Soft MoE. A dot is a dropped patch."
)

Summary = Mapping[str, Any]


def print_summary(summary: Summary, stream: TextIO, *, list_tensors: bool = False) -> None:
    """Print a summary. If `list_tensors` is true, also print one line for each tensor."""
    print_section(stream, Path(summary["bundle"]).resolve().name, [("format", f"version {summary['format_version']}")])
    for title, rows in summary_sections(summary):
        print_section(stream, title, rows)
    if summary["profiles"]:
        columns: dict[str, Callable[[Summary], str]] = {
            "name": lambda profile: profile["name"],
            "requested\nratio": lambda profile: number_text(profile["capacity_ratio"], "g"),
            "effective\nratio": lambda profile: number_text(profile["effective_ratio"], ".4g"),
            **{row.name.replace("_", "\n"): partial(_setting_text, row) for row in ROWS.values() if row.type != "ratio"},
            "slots": lambda profile: slots_range(profile["capacity"]) if profile["capacity"] else "-",
            "FLOPs": lambda profile: _short(profile["flops_per_image"]),
            "of\ndense": lambda profile: number_text(profile["of_dense"], ".0%"),
        }
        table = table_of(summary["profiles"], columns, ("name",))
        print_section(stream, "Profiles, the first is the default", table, spare=_IN_NAMES)
    files: dict[str, Callable[[Summary], str]] = {
        "name": lambda file: file["name"],
        "bytes": lambda file: f"{file['bytes']:,}",
        "SHA-256": lambda file: file["sha256"][:_DIGITS_OF_A_HASH],
    }
    verdict = "all files match the manifest" if summary["verified"] else "not verified; --verify checks them"
    print_section(stream, "Files", table_of(summary["files"], files, ("name",)), f"{summary['bytes']:,} bytes; {verdict}")
    machine = summary["machine"]
    library = machine["op_library"]
    rows = [("op library", f"no: {one_line(library['reason'])}" if library["reason"] else f"yes, {library['cpu_path']}")]
    for backend in machine["backends"]:
        runs = f"yes{', auto' * backend['auto']}, {one_line(backend['description'])}"
        rows.append((backend["name"], runs if backend["runs"] else f"no: {one_line(backend['reason'])}"))
    print_section(stream, f"Here: {machine['cpu']}, {_count(machine['cores'], 'core')}", rows)
    if list_tensors:
        tensors: dict[str, Callable[[Summary], str]] = {
            "name": lambda tensor: tensor["name"],
            "type": lambda tensor: tensor["dtype"],
            "shape": lambda tensor: f"[{','.join(map(str, tensor['shape']))}]",
            "bytes": lambda tensor: f"{tensor['bytes']:,}",
        }
        print_section(stream, "Tensors", table_of(summary["tensors"], tensors, ("name",)), width=_WIDTH_OF_A_LIST)


def summary_sections(summary: Summary) -> list[tuple[str, list[Row]]]:
    """Return the titles and rows of a summary's sections. Profiles, files and this machine's backends are left out."""
    routing, origin = summary["routing"], summary["origin"]
    sections = [("Model", _model(summary))]
    if routing is not None:
        rows = [
            ("routing", routing["kind"]),
            ("blocks", ", ".join(layer.rpartition("_")[2] for layer in routing["layers"])),
            ("experts", f"{by_layer(routing['layer_experts'])} in each, MLP {one_line(summary['model']['expert_mlp_dim'])}"),
            ("group", f"{one_line(routing['group'])}: {_count(routing['group_tokens'], 'token')}"),
            ("bf16 dispatch", _yes(summary["model"]["dispatch_bf16"])),
            ("a call sets", ", ".join(routing["settings"]) or "nothing"),
        ]
        if routing["slots_per_expert"] is not None:
            rows.append(("slots", f"{routing['slots_per_expert']} per expert and group"))
        if routing["rounding"] is not None:
            rows.append(("slots", f"rounded with {routing['rounding']} to multiples of {routing['capacity_multiple_of']}"))
        sections.append(("MoE layers", rows))
    image, output = summary["image"], summary["output"]
    graph = [
        ("image", f"{image['dtype']}[N,{image['height']},{image['width']},{image['channels']}]"),
        ("pictures", ", ".join(image["preprocessing"])),
        ("batches", f"multiples of {_count(summary['batch_multiple'], 'image')}"),
        (output["name"], f"float32[{','.join(map(str, ('N', *output['shape'])))}]"),
    ]
    source = [
        ("checkpoint", f"{one_line(origin['name'])} ({one_line(origin['format'])})"),
        ("SHA-256", one_line(origin["sha256"] and origin["sha256"][:_DIGITS_OF_A_HASH])),
        ("exported by", f"{one_line(origin['producer'])} {one_line(origin['producer_version'])}"),
    ]
    validation = _validation(summary["validation"])
    return [*sections, ("Input and output", graph), ("Validation", validation), ("Source", source)]


def print_images(report: ImageReport, stream: TextIO, pictures: Sequence[Path] = ()) -> None:
    """Print how the routers process the images, and the paths of the pictures that were drawn."""
    print_section(stream, report.bundle, _run(report), *map(one_line, report.notes))
    if report.layers:
        columns: dict[str, Callable[[tuple[str, LayerStatistics]], str]] = {
            "block": lambda layer: layer[0],
            "pairs\ndropped": lambda layer: share_text(layer[1].pairs_dropped),
            "patches\ndropped": lambda layer: share_text(layer[1].patches_dropped),
            "largest load,\nof mean": lambda layer: _times(layer[1].load.max(), layer[1].load.mean()),
            "smallest\nload": lambda layer: _times(layer[1].load.min(), layer[1].load.mean()),
            "entropy\nof load": lambda layer: number_text(layer[1].load_entropy, ".3f"),
            "entropy\nof gates": lambda layer: number_text(layer[1].gate_entropy, ".3f"),
        }
        print_section(stream, "MoE layers", table_of(report.layers.items(), columns, ("block",)), spare=_SPARE)
    for name, layer in report.layers.items():
        print_section(stream, name, table_of(range(len(layer.load)), _experts(layer, report.class_names), ("most for",)))
    if report.others:
        _print_agreement(report, stream)
    if pictures:
        print_section(stream, "Pictures", *(one_line(path) for path in pictures))


def print_picture(report: PictureReport, stream: TextIO) -> None:
    """Print the prediction at each setting, where it changes, and the expert of each patch in each layer."""

    def answer(setting: SettingAnswer, rank: int) -> str:
        index, share = setting.classes[rank]
        return f"{report.named(index)} {share:.1%}"

    columns: dict[str, Callable[[SettingAnswer], str]] = {
        "setting": lambda setting: setting.name,
        "MFLOP": lambda setting: number_text(setting.flops_per_image, ",.1f", 1e-6),
        "answer": lambda setting: answer(setting, 0),
        "next": lambda setting: answer(setting, 1) if len(setting.classes) > 1 else "-",
    }
    table = table_of(report.settings, columns, ("setting", "answer", "next"))
    legend = _LEGEND if report.settings[0].experts else NO_ROUTERS
    print_section(stream, f"{report.picture} on {report.bundle}", table, _flips(report), legend, width=_WIDTH)
    if report.grid is None:
        return
    names = [setting.name for setting in report.settings]
    several = max(1, _WIDTH // (max(report.grid[1], *map(len, names)) + 2))
    for layer in report.settings[0].experts:
        signs = {setting.name: _signs(report.patches(setting, layer)[0]) for setting in report.settings}
        for start in range(0, len(names), several):
            shown = {name: signs[name] for name in names[start : start + several]}
            print_section(stream, layer, table_of(range(report.grid[0]), shown), width=_WIDTH)


def _flips(report: PictureReport) -> str:
    """Return a sentence that says at which settings the predicted class changes."""
    settings = report.settings
    names = [report.named(setting.top1) for setting in settings]
    if not report.flips:
        return f"Every setting answers {names[0]}."
    flips = "; ".join(f"from {names[i - 1]} to {names[i]} at {settings[i].name}" for i in report.flips)
    return f"From the cheapest setting, {settings[0].name}, to the most expensive one, the answer flips {flips}."


def _signs(patches: np.ndarray[Any, np.dtype[Any]]) -> Callable[[int], str]:
    """Return a function that takes a row's index and formats that row of `patches`, with one sign per patch."""
    return ["".join(_SIGNS[min(expert, len(_SIGNS) - 2)] for expert in row) for row in patches].__getitem__


def _model(summary: Summary) -> list[Row]:
    model, image, output, parameters = (summary[name] for name in ("model", "image", "output", "parameters"))
    ensemble = f", an ensemble of {summary['ensemble_size']} members (E3)" if summary["ensemble_size"] > 1 else ""
    patch = " x ".join(map(str, model["patch_size"] or "-"))
    names, per_token = output["class_names"], parameters["per_token"]
    classes = output["shape"][-1] if output["name"] in ("logits", "members") else model["num_classes"]
    known = ", without names" if names is None else f": {', '.join(map(one_line, names[:3]))}{', ...' * (len(names) > 3)}"
    share = "-" if per_token is None else f"{per_token:,}, {per_token / max(parameters['all'], 1):.1%} of them"
    if per_token is not None and summary["routing"] is not None and parameters["k"] is not None:
        share += f": {parameters['k']} of {by_layer(summary['routing']['layer_experts'])} experts in each MoE layer"
    sizes = {"width": "hidden_size", "heads": "num_heads", "MLP": "mlp_dim"}
    encoder = [f"{one_line(model['num_layers'])} blocks", *(f"{name} {one_line(model[key])}" for name, key in sizes.items())]
    rows = [
        ("kind", summary["kind"] + ensemble),
        ("images", f"{image['height']} x {image['width']} px, {_count(image['channels'], 'channel')}; patches of {patch}"),
        ("encoder", ", ".join(encoder)),
        ("classifier", one_line(model["classifier"])),
        ("classes", one_line(classes) + known),
        ("outputs", ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in summary["outputs"].items())),
        ("parameters", f"{parameters['all']:,} in {_count(parameters['tensors'], 'tensor')}"),
        ("per token", share),
        ("dense FLOPs", f"{_short(summary['dense_flops_per_image'])} per image, of the dense model of this size"),
        ("precision", summary["precision"]),
    ]
    if summary["tensorrt"]:
        graphs = ", ".join(summary["tensorrt"]["graphs"].values())
        rows.append(("TensorRT", f"graphs in {summary['tensorrt']['precision']}: {graphs}"))
    return rows


def _validation(validation: Summary | None) -> list[Row]:
    if validation is None:
        return [("compared", "nothing: the bundle was not validated")]
    rows = [("compared", ", ".join(map(one_line, validation["graphs"]["graphs"])) or "-")]
    limits = {"max_difference": validation["atol"], "relative_difference": validation["relative_limit"]}
    for name, key in (("graphs", "graphs"), ("from float32", "from_fp32"), ("TensorRT", "tensorrt")):
        found = validation[key]
        if found is None:
            continue
        parts = []
        for text, measure in (("largest difference", "max_difference"), ("typical relative one", "relative_difference")):
            limit = f" (at most {limits[measure]:g})" if key == "graphs" and limits[measure] is not None else ""
            parts.append(f"{text} {number_text(found[measure], '.1e')}{limit}")
        if found["agreement"] is not None:
            parts.append(f"{found['agreement']:.2%} of the pairs routed alike")
        rows.append((name, ", ".join([*parts, f"{one_line(found['images'])} images"])))
    return rows


def _run(report: ImageReport) -> list[Row]:
    profile = report.profile
    setting = "-" if profile is None else f"{profile.name}, an effective capacity ratio of {profile.effective_ratio:.4g}"
    left = f", {report.left_over:,} left over that fill no group" if report.left_over else ""
    labels = "with labels" if report.labelled else "without labels"
    return [
        ("runs on", one_line(report.backend)),
        ("profile", setting),
        ("group", one_line(report.group)),
        ("images", f"{report.images:,} of {one_line(report.source)}, {labels}{left}"),
        ("top-1", share_text(report.top1)),
    ]


def _experts(layer: LayerStatistics, class_names: Sequence[str] | None) -> dict[str, Callable[[int], str]]:
    total, dropped, requested = layer.load.sum(), layer.expert_dropped, layer.requested
    columns: dict[str, Callable[[int], str]] = {
        "expert": str,
        "load": lambda expert: f"{layer.load[expert]:,.{int(layer.kind == 'soft')}f}",
        "share": lambda expert: share_text(float(layer.load[expert] / total)) if total else "-",
        "requested": lambda expert: "-" if requested is None else f"{requested[expert]:,}",
        "dropped": lambda expert: "-" if dropped is None else share_text(float(dropped[expert])),
    }
    if layer.class_weight is not None:
        columns["most for"] = lambda expert: _classes(layer, expert, class_names)
    return columns


def _classes(layer: LayerStatistics, expert: int, class_names: Sequence[str] | None) -> str:
    """Format the classes that have the largest mean routing weight for an expert."""
    assert layer.class_weight is not None
    weights = np.nan_to_num(layer.class_weight[:, expert])
    best = [index for index in np.argsort(-weights, kind="stable")[:_CLASSES_OF_AN_EXPERT] if weights[index] > 0]
    return ", ".join(f"{class_name(int(index), class_names, _LONGEST_NAME)} ({weights[index]:.3f})" for index in best)


def _print_agreement(report: ImageReport, stream: TextIO) -> None:
    columns: dict[str, Callable[[OtherBundle], str]] = {
        "bundle": lambda other: other.bundle,
        "precision": lambda other: other.precision,
        "group": lambda other: one_line(other.group),
        "same\ntop-1": lambda other: share_text(other.agreement.same_top1),
        "largest\ndifference": lambda other: f"{other.agreement.max_difference:.2g}",
        "mean\ndifference": lambda other: f"{other.agreement.mean_difference:.2g}",
    }
    print_section(stream, f"Agreement with {report.bundle}", table_of(report.others, columns, ("bundle",)))
    layers: dict[str, Callable[[str], str]] = {"block": str}
    for other in report.others:
        layers[other.bundle] = lambda name, other=other: share_text(other.agreement.same_experts[name])  # type: ignore[misc]
    if blocks := list(report.others[0].agreement.same_experts):
        print_section(stream, "Tokens that the same experts keep", table_of(blocks, layers, ("block",)))


def _setting_text(row: SettingRow, profile: Summary) -> str:
    """Return the text that the table of profiles shows for one setting of a profile."""
    value = profile[row.stored]
    return one_line(value) if value is None or row.type != "flag" else row.text(value)


def _yes(flag: bool | None) -> str:
    return "-" if flag is None else "yes" if flag else "no"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _short(number: int | None) -> str:
    for power, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number is not None and number >= 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return one_line(number)


def _times(value: float, of: float) -> str:
    return f"{value / of:.2f}" if of else "-"
