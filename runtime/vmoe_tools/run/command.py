"""The command `vmoe run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from vmoe_measure.image_source import pictures_of
from vmoe_runtime import Engine, Setting
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_tools import options
from vmoe_tools.output import check_output_file, class_records, people_stream, write_json
from vmoe_tools.program import FAILURE, complain, printable
from vmoe_tools.run.answer_file import check_answer_file, write_answers
from vmoe_tools.run.answers import Answer, answer

_MOST_CLASSES = 1 << 24


@click.command(context_settings=options.CONTEXT)
@options.bundle_argument
@options.read_argument("images", metavar="IMAGE|DIR...", nargs=-1, required=True)
@options.setting_options
@options.count_option("--top", most=_MOST_CLASSES, default=5, help="Classes per image; all of them if the model has fewer.")
@click.option(
    "--exif/--no-exif",
    default=None,
    help="Rotate pictures by their EXIF orientation, or use them as stored. Default: set in the bundle.",
)
@options.out_option(
    "FILE",
    "Write a row for each image: its classes, or the features of a bundle that returns them; .npz, .csv or .parquet. "
    "Tokens and outputs of --layers are written to .npz.",
)
@options.run_options
def run(
    bundle: Path,
    images: tuple[Path, ...],
    top: int,
    exif: bool | None,
    out: Path | None,
    backend: str,
    threads: int | None,
    json_target: str | None,
    quiet: bool,
    **given: Any,
) -> int:
    """Classify image files: print the most likely classes of each image and their probabilities.

    For a folder, the command classifies all pictures in it and its subfolders, sorted by path. If an image can't be read,
    the command reports that image, classifies the others, and exits with code 1.
    """
    check_output_file(json_target, [bundle, *images, out])
    check_answer_file(out, [bundle, *images])
    paths = [path for given_path in images for path in _pictures(given_path)]
    with Engine.load(bundle, Setting(**given), backend, threads, exif=exif) as engine:
        if out is None or engine.manifest.output not in ("features", "tokens"):
            check_classifies(engine.manifest, bundle)
        if out is not None and out.suffix != ".npz" and any(len(shape) > 1 for shape in engine.manifest.answers.values()):
            names = ", ".join(engine.manifest.answers)
            raise click.UsageError(f"--out: {bundle} returns {names}, and only an .npz file can hold tokens")
        check_fills_groups(engine.manifest, len(paths))
        stream, width = people_stream(json_target), max(len(printable(str(path))) for path in paths)
        if not quiet:
            name = f", {engine.profile.name}" if engine.profile else ""
            steps = engine.manifest.input.steps
            print(f"{engine.manifest.summary}{name}, on {engine.backend_description}; pictures: {steps}", file=stream)
        done = []
        for each in answer(engine, paths, top):
            done.append(each)
            if not quiet:
                for line in _lines(each, engine, width):
                    print(line, file=stream)
            if each.error is not None:
                stream.flush()
                complain(each.error)
        content = {
            "bundle": str(bundle),
            "profile": engine.profile.name if engine.profile else None,
            "backend": engine.backend,
            "images": [_entry(each, engine.class_names) for each in done],
        }
    if out is not None:
        write_answers(out, done, engine.manifest, top)
        if not quiet:
            print(f"Wrote {printable(str(out))}: {len(done):,} images", file=stream)
    write_json(json_target, content)
    return FAILURE if any(each.error for each in done) else 0


def _pictures(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    loose, below = pictures_of(path)
    return sorted([*loose, *(picture for several in below.values() for picture in several)])


def check_classifies(manifest: Manifest, bundle: Path) -> None:
    """Refuse a bundle that doesn't return logits."""
    if manifest.output in ("features", "tokens"):
        where = "at /v1/features" if manifest.output == "features" else "by infer"
        raise click.ClickException(
            f"{bundle} returns {manifest.output} of size {manifest.outputs}, which have no classes; vmoe run -o FILE.npz "
            f"writes them, and services return them {where}"
        )
    if manifest.output == "members":
        raise click.ClickException(f"{bundle} returns each member's logits; vmoe_runtime.Engine returns them in Python")


def check_fills_groups(manifest: Manifest, count: int) -> None:
    """Refuse a number of images that doesn't fill whole routing groups."""
    if misfit := manifest.misfit(count):
        raise click.UsageError(f"{count} image{' doesn' if count == 1 else 's don'}'t fit: the {misfit}")


def _lines(each: Answer, engine: Engine, width: int) -> Iterator[str]:
    """Yield the lines to print for one image.

    There is one line per class, with the columns file, probability and class.
    """
    for rank, (index, probability) in enumerate(each.classes):
        file = "" if rank else printable(str(each.image))
        name = engine.class_names[index] if engine.class_names else f"class {index}"
        yield f"{file:<{width}}  {probability:>7.2%}  {printable(name)}"


def _entry(each: Answer, names: Sequence[str] | None) -> dict[str, Any]:
    return {"image": str(each.image), "error": each.error, "classes": class_records(each.classes, names)}
