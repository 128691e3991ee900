"""Draws what the routers do with images. The only module, besides those it calls, that needs matplotlib."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from vmoe_tools.command_line import CommandError
from vmoe_tools.inspect.expert_charts import chart_classes, chart_gates, chart_loads
from vmoe_tools.inspect.image_report import ImageReport
from vmoe_tools.inspect.patch_pictures import picture_capacities, picture_experts, picture_kept
from vmoe_tools.inspect.samples import Samples
from vmoe_tools.interrupts import interrupt_held_back

_PIXELS_PER_INCH = 150


def draw(report: ImageReport, samples: Samples | None, folder: Path) -> list[Path]:
    """Draws all pictures that the model and the images give.

    Args:
        report: what was found; a dense ViT has nothing to draw.
        samples: images with their patches; None where it isn't known where patches are.
        folder: where to; it is made where it isn't there. Pictures of the same names are replaced, each in one step.

    Returns:
        The paths of the pictures.

    Raises:
        CommandError: a picture can't be written.
        KeyboardInterrupt: Ctrl-C came; the picture that was being drawn is there as well.
    """
    drawn = []
    # Names are drawn as they are, also those with dollars.
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # class names in scripts that the font lacks
        for name, make in _pictures(report, samples):
            path = folder / f"{name}.png"
            with interrupt_held_back():
                _write(make(), path)
            drawn.append(path)
    return drawn


def _pictures(report: ImageReport, samples: Samples | None) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Names of pictures, and what makes them."""
    layers, names = report.layers, report.class_names
    if samples is not None and layers:
        if any(layer.kind != "soft" for layer in layers.values()):
            yield "patches", lambda: picture_kept(samples, names)
        yield "experts", lambda: picture_experts(samples, names)
        if len(samples.frames) > 1:
            for name in layers:
                yield f"capacity-{name}", lambda name=name: picture_capacities(samples, name, names)  # type: ignore[misc]
    if layers:
        yield "load", lambda: chart_loads(layers)
        yield "gates", lambda: chart_gates(layers)
    if any(layer.class_weight is not None for layer in layers.values()):
        yield "classes", lambda: chart_classes(layers, names)


def _write(figure: Figure, path: Path) -> None:
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.png")
    try:
        path.parent.mkdir(exist_ok=True)
        figure.savefig(part, dpi=_PIXELS_PER_INCH)
        part.replace(path)
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
