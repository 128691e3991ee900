"""`vmoe-inspect --images`: loads the bundles, runs the images, and collects what is shown of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmoe_measure.image_source import ImageSource, open_images
from vmoe_runtime import RoutingError
from vmoe_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from vmoe_runtime.images import to_batch
from vmoe_tools.command_line import CommandError
from vmoe_tools.inspect.arguments import Arguments
from vmoe_tools.inspect.image_pass import common_multiple, run_images
from vmoe_tools.inspect.image_report import ImageReport, Neighbours, OtherBundle
from vmoe_tools.inspect.interference import call_size, interference
from vmoe_tools.inspect.loading import LoadedBundle, load_bundles
from vmoe_tools.inspect.samples import Samples, take_samples

_CALLS_OF_NEIGHBOURS = 4


class Progress(Protocol):
    """Shows how far a run is; `vmoe_tools.bench.display.Progress` is one."""

    def step(self, text: str, total: float) -> AbstractContextManager[Callable[[float, int], None]]:
        """A bar until the block ends; what it gives is told of an amount and a number of images."""


class NoProgress:
    """Shows nothing."""

    def step(self, text: str, total: float) -> AbstractContextManager[Callable[[float, int], None]]:
        """As for `Progress`."""
        return nullcontext(lambda amount, images: None)


@dataclass(frozen=True)
class Found:
    """What a run found: the report, and what pictures are drawn of; None where there is nothing to draw of patches."""

    report: ImageReport
    samples: Samples | None


def check_folder(out: Path | None, used: Sequence[Path | None]) -> None:
    """Refuses a folder for pictures that can't or mustn't be written to, before anybody waits for them.

    Raises:
        CommandError: it is something else, its parent isn't there, or the command reads it.
    """
    if out is None:
        return
    if os.path.lexists(out) and not out.is_dir():
        raise CommandError(f"--out {out} is there already and no folder")
    if not out.exists() and not out.absolute().parent.is_dir():
        raise CommandError(f"--out {out} can't be made: there is no folder {out.absolute().parent}")
    # Path.resolve raises where links lead in a circle.
    real, read = Path(os.path.realpath(out)), [Path(os.path.realpath(path)) for path in used if path is not None]
    if any(path in (real, *real.parents) for path in read) or (out / MANIFEST_NAME).exists():
        raise CommandError(f"--out {out} lies in what this command reads, or is a bundle; choose another one for pictures")


def inspect_images(arguments: Arguments, progress: Progress) -> Found:
    """Runs what was asked for.

    Raises:
        VmoeError: a bundle can't be loaded or is of another model; there are no such images; the backend failed.
    """
    assert arguments.images is not None
    with ExitStack() as closing:
        bundles = load_bundles(
            arguments.bundle, arguments.others, arguments.profile, arguments.backend, arguments.threads, closing
        )
        first, *others = bundles
        engine, manifest = first.engine, first.engine.manifest
        outputs = manifest.outputs if manifest.output == "logits" else None
        source = open_images(arguments.images, manifest.class_names, outputs, arguments.labels)
        setting = None if engine.profile is None else engine.profile.name
        engines = [bundle.engine for bundle in bundles]
        size = call_size(common_multiple(engines), len(source)) if arguments.sets else None
        with progress.step("images", len(source)) as advance:
            done = run_images(engines, source, setting, lambda images: advance(images, images))
        neighbours: tuple[Neighbours, ...] = ()
        if arguments.sets is not None and size is not None:
            neighbours = _neighbours(bundles, source, setting, arguments.sets, size, progress)
        samples, notes = None, _notes(manifest, source, neighbours)
        if arguments.out is not None and manifest.rules is not None:
            try:
                samples = take_samples(engine, source, engine.profile)
            except RoutingError as error:
                notes.append(f"No patches are drawn: {error}.")
        report = ImageReport(
            bundle=first.name,
            source=str(arguments.images),
            images=done.images,
            left_over=len(source) - done.images,
            labelled=done.top1 is not None,
            class_names=manifest.class_names,
            backend=engine.backend_description,
            group=manifest.group,
            profile=engine.profile,
            top1=done.top1,
            layers=done.layers,
            others=tuple(
                OtherBundle(
                    other.name,
                    other.engine.manifest.precision,
                    other.engine.manifest.group,
                    other.engine.backend_description,
                    agreement,
                )
                for other, agreement in zip(others, done.agreements, strict=True)
            ),
            neighbours=neighbours,
            notes=tuple(notes),
        )
    return Found(report, samples)


def _neighbours(
    bundles: Sequence[LoadedBundle], source: ImageSource, setting: str | None, sets: int, size: int, progress: Progress
) -> tuple[Neighbours, ...]:
    """The same images among the same neighbours in every bundle."""
    pictures = source.images[: min(_CALLS_OF_NEIGHBOURS, len(source) // size) * size]
    found = []
    with progress.step("neighbours", sets * len(bundles)) as advance:
        for bundle in bundles:
            engine = bundle.engine
            batch = to_batch(pictures, engine.manifest.input)
            moved = interference(engine, batch, setting, sets, size=size, after_set=lambda images: advance(1, images))
            found.append(Neighbours(bundle.name, engine.manifest.group, moved))
    return tuple(found)


def _notes(manifest: Manifest, source: ImageSource, neighbours: Sequence[Neighbours]) -> list[str]:
    """What can't be said, a sentence each."""
    notes = []
    if manifest.rules is None:
        notes.append("A dense ViT has no routers: every patch goes through every layer, and there are no experts to show.")
    elif manifest.rules.kind == "soft":
        notes.append(
            "A Soft MoE drops nothing: every expert has a share of every patch, and loads are sums of these shares."
        )
    elif manifest.rules.kind == "experts-choice":
        notes.append("With experts choice the experts choose their tokens: all have the same load, and nobody asks for one.")
    if source.note is not None:
        notes.append(f"{source.note[0].upper()}{source.note[1:]}.")
    elif source.labels is None and manifest.rules is not None:
        notes.append("Without labels it is not known which classes go to which experts.")
    if neighbours and not any(one.group in {"image", "1"} for one in neighbours) and manifest.rules is not None:
        notes.append(
            "A bundle exported with --group image, given by --with, stands beside: neighbours can't move its answers."
        )
    return notes
