"""The command `vmoe inspect`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmoe_measure.image_source import open_images
from vmoe_runtime import RoutingError, Setting
from vmoe_runtime.backends import Parallelism
from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.bundle.reader import Bundle, while_unchanged
from vmoe_runtime.images import to_batch
from vmoe_runtime.settings import SETTINGS
from vmoe_tools import options
from vmoe_tools.bench.planned_points import named_profiles, plan_points
from vmoe_tools.engines import load_engines
from vmoe_tools.inspect.display import print_images, print_picture, print_summary
from vmoe_tools.inspect.image_run import ImageReport, run_images
from vmoe_tools.inspect.one_picture import PictureReport, compare_settings
from vmoe_tools.inspect.samples import Samples, take_samples
from vmoe_tools.inspect.summary import summarize
from vmoe_tools.output import check_drawing, check_output_file, people_stream, write_json
from vmoe_tools.program import printable
from vmoe_tools.run.command import check_classifies, check_fills_groups
from vmoe_tools.terminal import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DEFAULTS = {"labels": None, "compared": (), "out": None, "backend": "auto", "threads": None}


@click.command(context_settings=options.CONTEXT)
@options.bundle_argument
@options.read_argument("picture", required=False)
@click.option("--verify", is_flag=True, help="Compare the SHA-256 of every file with the manifest's.")
@click.option("--list-tensors", is_flag=True, help="Also print name, type, shape and bytes of every tensor.")
@options.images_option
@options.labels_option
@options.profiles_option
@options.change_options
@options.read_argument(
    "--compare",
    "compared",
    metavar="BUNDLE",
    multiple=True,
    help="Another bundle of the same model, such as another precision, to compare outputs and routing with. Repeatable.",
)
@options.out_option(
    "DIR|FILE",
    "Draw patches, experts, gates, loads, and the experts of each class into this folder; for a PICTURE, this file.",
)
@options.run_options
def inspect(
    bundle: Path,
    picture: Path | None,
    verify: bool,
    list_tensors: bool,
    json_target: str | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Describe a bundle, show how it routes images, or compare settings on one picture.

    BUNDLE alone: shows the model and its parameters, MoE layers, profiles and their FLOPs, validation results, source and
    files, and the backends that run it on this machine. The model is not loaded.

    With --images: shows the load of each expert, dropped pairs, gates, and the classes of each expert, at one --profile
    (default: the first stored profile). All options below --images apply here.

    With PICTURE: shows the picture's classes and dropped patches at each --profile (default: all stored profiles), side by
    side.
    """
    profiles, changes = given.pop("profiles"), {name: given.pop(name) for name in SETTINGS}
    used = [bundle, picture, *given["compared"], given["images"], given["labels"]]
    check_output_file(json_target, used)
    if picture is not None:
        if verify or list_tensors or any(given[name] for name in ("images", "labels", "compared")):
            raise click.UsageError("PICTURE goes only with settings, --backend, --threads and --out FILE")
        check_drawing(given["out"], "--out", used)
        compared = _side_by_side(bundle, picture, profiles, changes, given)
        if not quiet:
            print_picture(compared, people_stream(json_target))
            if given["out"] is not None:
                print(printable(f"Wrote {given['out']}"), file=people_stream(json_target))
        write_json(json_target, {"on_picture": compared.record()})
        return
    if len(profiles) > 1:
        raise click.UsageError("several --profile need a PICTURE on which to compare them")
    setting = Setting(*profiles, **changes)
    if given["images"] is None:
        if setting != Setting() or any(given[name] != default for name, default in _DEFAULTS.items()):
            raise click.UsageError(
                "options for a run on images need --images NPZ|DIR; settings, --backend, --threads and --out also go with a "
                "PICTURE"
            )
        summary = _summary(bundle, verify=verify)
        if not quiet:
            print_summary(summary, people_stream(json_target), list_tensors=list_tensors)
        write_json(json_target, summary)
        return
    if list_tensors:
        raise click.UsageError("--list-tensors belongs to the description, which --images NPZ|DIR replaces")
    _check_folder(given["out"], used)
    report, samples = _run(bundle, setting, given, Progress(sys.stderr, quiet=quiet))
    summary = _summary(bundle, verify=verify) if json_target else {}
    pictures = [] if given["out"] is None else _draw(report, samples, given["out"])
    if not quiet:
        print_images(report, people_stream(json_target), pictures)
    write_json(json_target, {**summary, "on_images": report.record()})


def _side_by_side(
    bundle: Path, picture: Path, names: Sequence[str], changes: dict[str, Any], given: dict[str, Any]
) -> PictureReport:
    """Run one picture at every setting and, if requested, draw the result."""
    with ExitStack() as closing:
        engines = load_engines([bundle], (), [given["backend"]], names, Parallelism(given["threads"]), closing)
        manifest = engines[0].engine.manifest
        check_classifies(manifest, bundle)
        check_fills_groups(manifest, 1)
        if given["out"] is not None and not manifest.moe_layers:
            raise click.UsageError("--out draws the experts of patches, and a dense ViT has none")
        batch = to_batch(picture, manifest.input)
        points = plan_points(engines, [named_profiles(each.engine, names, **changes) for each in engines], (1,))
        report = compare_settings(points, batch, str(picture))
    if given["out"] is not None:
        from vmoe_tools.charts import write_picture
        from vmoe_tools.patch_pictures import picture_settings

        write_picture(picture_settings(report, batch, manifest), given["out"])
    return report


def _summary(path: Path, *, verify: bool) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        with Bundle.open_once(path, verify=verify) as bundle:
            if verify:
                bundle.verify_weights()
            return summarize(bundle, verified=verify)

    return while_unchanged(read)


def _check_folder(out: Path | None, used: Sequence[Path | None]) -> None:
    """Refuse a folder that can't or must not be written to. The check runs before the user waits for the pictures."""
    if out is None:
        return
    import vmoe_tools.patch_pictures  # noqa: F401

    if os.path.lexists(out) and not out.is_dir():
        raise click.UsageError(f"--out {out} exists and is not a folder")
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"--out {out} can't be created: there is no folder {out.absolute().parent}")
    # Use os.path.realpath, because Path.resolve raises an error if links form a loop.
    real, read = Path(os.path.realpath(out)), [Path(os.path.realpath(path)) for path in used if path is not None]
    if any(path in (real, *real.parents) for path in read) or (out / MANIFEST_NAME).exists():
        raise click.UsageError(f"--out {out} is inside an input of this command, or is a bundle; choose another folder")


def _run(path: Path, setting: Setting, given: dict[str, Any], progress: Progress) -> tuple[ImageReport, Samples | None]:
    """Run the images through all bundles, and take samples for the pictures."""
    with ExitStack() as closing:
        bundles = load_engines(
            [path, *given["compared"]], (), [given["backend"]], [setting.profile], Parallelism(given["threads"]), closing,
            any_groups=True,
        )  # fmt: skip
        engine, manifest = bundles[0].engine, bundles[0].engine.manifest
        profile = engine.setting(setting)
        outputs = manifest.outputs if manifest.output == "logits" else None
        source = open_images(given["images"], manifest.class_names, outputs, given["labels"])
        with progress.step("images", len(source)) as advance:
            report = run_images(bundles, source, profile, lambda images: advance(images, images), name=str(given["images"]))
        samples = None
        if given["out"] is not None and manifest.moe_layers:
            try:
                samples = take_samples(engine, source, profile)
            except RoutingError as error:
                report = replace(report, notes=(*report.notes, f"No patches are drawn: {error}."))
    return report, samples


def _draw(report: ImageReport, samples: Samples | None, folder: Path) -> list[Path]:
    """Draw all pictures that the model and the images allow. Return their paths.

    A dense ViT has no pictures.
    """
    from vmoe_tools.charts import chart_classes, chart_gates, chart_loads, write_picture
    from vmoe_tools.patch_pictures import picture_capacities, picture_experts

    layers, names = report.layers, report.class_names
    figures: dict[str, Figure] = {}
    if samples is not None and layers:
        figures["experts"] = picture_experts(samples, names)
        if len(samples.frames) > 1:
            figures |= {f"capacity-{layer}": picture_capacities(samples, layer, names) for layer in layers}
    if layers:
        figures |= {"load": chart_loads(layers), "gates": chart_gates(layers)}
    if any(layer.class_weight is not None for layer in layers.values()):
        figures["classes"] = chart_classes(layers, names)
    paths = []
    for name, figure in figures.items():
        folder.mkdir(exist_ok=True)
        paths.append(folder / f"{name}.png")
        write_picture(figure, paths[-1])
    return paths
