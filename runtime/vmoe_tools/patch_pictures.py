"""Pictures of sample images that show how a MoE layer routed their patches."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.routing import Array
from vmoe_tools.charts import layer_name
from vmoe_tools.inspect.one_picture import PictureReport
from vmoe_tools.inspect.samples import Frame, Samples, shown_pixels
from vmoe_tools.inspect.statistics import class_name

_PANEL_INCHES = 1.3
_MARGIN_INCHES = 0.85
_CAPTION_INCHES = 0.27
# The palette of Okabe and Ito, with wine red instead of black. Grey is reserved for dropped patches.
_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#882255")
_LIGHTNESS = (0.45, 0.75, 0.6)
_VEIL, _VEIL_ALPHA = to_rgb("#8c8c8c"), 0.86
_TINT_ALPHA = 0.8
_LINE, _SAME, _OTHER = "#777777", "#13714a", "#b3261e"
_PARTS = 8  # the width of an outline is 1/8 of a patch's side
_LEAST_CELL_INCHES, _READABLE_CELL_INCHES = 0.12, 0.15
_MOST_PANEL_INCHES = 2.4
_POINTS_PER_CELL = 34  # font size in points for a cell of one inch; an inch has 72 points
_LONGEST_NAME = 18
_MOST_IN_LEGEND = 32


def picture_experts(samples: Samples, class_names: Sequence[str] | None) -> Figure:
    """Draw the expert of each patch as a colour and, if there is room, a number.

    Each row of the figure is an image, and each column is a MoE layer.
    """
    layers = samples.own.patches
    patches = [[patches[:, row] for patches in layers.values()] for row in range(len(samples.pixels))]
    figure, panels = _expert_panels(samples, patches, class_names)
    _name_columns(panels, [layer_name(layer) for layer in layers])
    title = f"The expert of each patch at {samples.own.name or 'the only setting'}"
    figure.suptitle(title + _of_merged(token for line in patches for _, token in line), fontsize=9)
    return figure


def picture_settings(report: PictureReport, batch: Array, manifest: Manifest) -> Figure:
    """Draw one picture at each setting: the expert of each patch, and the predicted class.

    Each row of the figure is a MoE layer, and each column is a setting.

    Args:
        report: the comparison of the settings.
        batch: dtype[1,H,W,C], the picture as an input of the graph.
        manifest: manifest of a bundle with MoE layers.

    Raises:
        RoutingError: the manifest doesn't say which tokens are patches.
    """
    assert manifest.moe_layers
    patches = [[report.patches(setting, layer) for setting in report.settings] for layer in manifest.moe_layers]
    pixels, (height, width) = shown_pixels(batch).repeat(len(patches), axis=0), manifest.model["patch_size"]
    rows, settings = np.arange(len(patches)), report.settings
    samples = Samples(pixels, rows, (height, width), manifest.rules.num_experts, Frame(None, None, None, {}), ())
    figure, panels = _expert_panels(samples, patches, [layer_name(layer) for layer in manifest.moe_layers])
    _name_columns(panels, [f"{each.name}\n{report.named(each.top1)}, {each.classes[0][1]:.0%}" for each in settings])
    for axes, setting in zip(panels[0][1:], settings, strict=True):
        axes.title.set_color(_SAME if setting.top1 == settings[-1].top1 else _OTHER)
    title = "The expert of each patch, and the answer, cheapest setting first\n(red: not that of the most expensive one)"
    figure.suptitle(title + _of_merged(token for line in patches for _, token in line), fontsize=9)
    return figure


def picture_capacities(samples: Samples, layer: str, class_names: Sequence[str] | None) -> Figure:
    """Draw the patches that one MoE layer processed, and the class that the model predicted.

    Each row of the figure is an image, and each column is a capacity ratio.
    """
    figure, panels = _grid(samples, len(samples.frames), class_names, _CAPTION_INCHES)
    for row, line in enumerate(panels):
        for axes, frame in zip(line[1:], samples.frames, strict=True):
            expert, token = frame.patches[layer][:, row]
            _overlay(axes, samples, np.where(expert[..., None] < 0, (*_VEIL, _VEIL_ALPHA), 0.0))
            _lines(axes, samples, token)
            kept = np.count_nonzero(expert >= 0)
            # Put the predicted class on its own line, because a class name may be as long as the panel is wide.
            answer = "" if frame.answers is None else f"\n{_class(int(frame.answers[row]), class_names)}"
            axes.set_xlabel(f"{kept} of {expert.size}{answer}", fontsize=6.5, labelpad=2)
    heads = [
        f"{str(frame.name).partition('-')[0]}{' *' if frame is samples.own else ''}\nC = {frame.effective_ratio:.3g}"
        for frame in samples.frames
    ]
    _name_columns(panels, heads)
    block, own = layer_name(layer), samples.own.name
    title = f"Patches that {block} processes at each capacity, and answers\n(* is the inspected {own})"
    figure.suptitle(title + _of_merged(token for frame in samples.frames for token in frame.patches[layer][1]), fontsize=9)
    return figure


def expert_colours(count: int) -> list[str]:
    """Return a colour as #rrggbb for each of `count` experts.

    Up to eight colours can be told apart with any colour vision. More than eight colours are spread over hues and three
    lightnesses, and successive colours differ in hue and lightness. Some colours may look alike, but the numbers in the
    patches identify the experts.
    """
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    lightness = (_LIGHTNESS[index % len(_LIGHTNESS)] for index in range(count))
    return [to_hex(colorsys.hls_to_rgb((index * 0.381966) % 1, light, 0.75)) for index, light in enumerate(lightness)]


def _expert_panels(
    samples: Samples, patches: Sequence[Sequence[Array]], class_names: Sequence[str] | None
) -> tuple[Figure, list[list[Axes]]]:
    """Draw a grid of samples with a legend of the experts.

    Args:
        samples: the sample images; each one has its own row in the grid.
        patches: for each row and each panel, i64[2,rows,columns]: the expert and the token of each patch.
        class_names: names of all classes; None if the bundle has none.
    """
    # If colours alone can't distinguish the experts, the panels must be large enough for numbers.
    few = samples.num_experts <= len(_PALETTE)
    wide = 0 if few else samples.pixels.shape[2] / samples.patch_size[1] * _READABLE_CELL_INCHES
    panel_inches = min(max(wide, _PANEL_INCHES), _MOST_PANEL_INCHES)
    figure, panels = _grid(samples, len(patches[0]), class_names, panel_inches=panel_inches)
    colours = expert_colours(samples.num_experts)
    for line, own in zip(panels, patches, strict=True):
        for axes, of_panel in zip(line[1:], own, strict=True):
            _show_experts(axes, samples, of_panel, colours, panel_inches)
    if samples.num_experts <= _MOST_IN_LEGEND:
        handles = [Patch(facecolor=colour, edgecolor="#555555", label=str(e)) for e, colour in enumerate(colours)]
        dropped = any((expert < 0).any() for line in patches for expert, _ in line)
        handles += [Patch(facecolor=_VEIL, edgecolor="#555555", label="dropped")] if dropped else []
        figure.legend(
            handles=handles, ncols=min(len(handles), 2 * len(panels[0])), loc="outside lower center", fontsize=7,
            frameon=False, handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip
    return figure, panels


def _grid(
    samples: Samples,
    columns: int,
    class_names: Sequence[str] | None,
    caption_inches: float = 0.0,
    panel_inches: float = _PANEL_INCHES,
) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure with one row per sample.

    A row contains the class as a label on the left, the image, and `columns` panels.
    """
    count, height, width = samples.pixels.shape[:3]
    tall = min(height / width, 2.0)
    size = ((columns + 1) * panel_inches + 0.4, count * (panel_inches * tall + caption_inches) + _MARGIN_INCHES)
    figure = Figure(size, layout="constrained")
    panels: list[list[Axes]] = figure.subplots(count, columns + 1, squeeze=False).tolist()
    for row, line in enumerate(panels):
        for axes in line:
            _show(axes, samples.pixels[row])
        if samples.labels is not None:
            line[0].set_ylabel(_class(int(samples.labels[row]), class_names), fontsize=7)
    return figure, panels


def _name_columns(panels: list[list[Axes]], names: Sequence[str]) -> None:
    for axes, name in zip(panels[0], ["image", *names], strict=True):
        axes.set_title(name, fontsize=7.5)


def _show(axes: Axes, pixels: Array) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.4, color="#777777")
    axes.imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), interpolation="nearest")


def _show_experts(axes: Axes, samples: Samples, patches: Array, colours: Sequence[str], panel_inches: float) -> None:
    expert, token = patches
    tints = np.array([(*to_rgb(colour), _TINT_ALPHA) for colour in colours] + [(*_VEIL, _VEIL_ALPHA)])
    _overlay(axes, samples, tints[expert])  # a dropped patch has expert -1, which selects the last tint
    _lines(axes, samples, token)
    height, width = samples.patch_size
    cell_inches = panel_inches * width / samples.pixels.shape[2]
    if cell_inches < _LEAST_CELL_INCHES:
        return
    points = min(_POINTS_PER_CELL * cell_inches, 6.0)
    for (y, x), number in np.ndenumerate(expert):
        if number >= 0:
            centre = ((x + 0.5) * width - 0.5, (y + 0.5) * height - 0.5)
            text = axes.text(*centre, str(number), fontsize=points, ha="center", va="center", color="white", weight="bold")
            # A dark edge makes the number readable on every colour.
            text.set_path_effects([withStroke(linewidth=1.0, foreground="black")])


def _overlay(axes: Axes, samples: Samples, colours: Array, parts: int = 1) -> None:
    """Draw a colour, f64[rows,columns,RGBA], over each patch.

    If `parts` > 1, divide each patch into parts x parts cells with one colour each.
    """
    height, width = (size / parts for size in samples.patch_size)
    bottom, right = colours.shape[0] * height - 0.5, colours.shape[1] * width - 0.5
    axes.imshow(colours, extent=(-0.5, right, bottom, -0.5), interpolation="nearest")
    # Some pixels at the right and bottom may belong to no patch. Keep them in view.
    axes.set(xlim=(-0.5, samples.pixels.shape[2] - 0.5), ylim=(samples.pixels.shape[1] - 0.5, -0.5))


def _lines(axes: Axes, samples: Samples, token: Array) -> None:
    """Draw thin lines between tokens. Outline merged patches, in a different colour for each merged token."""
    height, width = samples.patch_size
    y, x = np.nonzero(np.diff(token, axis=0))
    axes.hlines((y + 1) * height - 0.5, x * width - 0.5, (x + 1) * width - 0.5, colors=_LINE, linewidths=0.3)
    y, x = np.nonzero(np.diff(token, axis=1))
    axes.vlines((x + 1) * width - 0.5, y * height - 0.5, (y + 1) * height - 0.5, colors=_LINE, linewidths=0.3)
    tokens, counts = np.unique(token, return_counts=True)
    colours = np.zeros((tokens[-1] + 1, 4))
    for index, each in enumerate(tokens[counts > 1]):
        colours[each] = (*colorsys.hls_to_rgb((index * 0.381966) % 1, 0.6, 0.9), 1)
    parts = token.repeat(_PARTS, 0).repeat(_PARTS, 1)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(parts, 1, constant_values=-1), (3, 3))
    is_edge = (around != parts[..., None, None]).any(axis=(2, 3))
    _overlay(axes, samples, colours[parts] * is_edge[..., None], _PARTS)


def _of_merged(tokens: Iterable[Array]) -> str:
    """Return a note that explains the outlines of merged tokens. If no tokens are merged, return an empty string.

    `tokens` are arrays i64[rows,columns] that contain the token of each patch.
    """
    merged = any(len(np.unique(token)) < token.size for token in tokens)
    return "\n(patches outlined in one colour were merged into one token)" if merged else ""


def _class(index: int, class_names: Sequence[str] | None) -> str:
    return class_name(index, class_names, _LONGEST_NAME)
