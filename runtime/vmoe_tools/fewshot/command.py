"""The command `vmoe fewshot`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from vmoe_measure.head_inputs import FITTED_TO, head_inputs, is_sampled
from vmoe_measure.image_source import ImageSource, open_images, pictures_of
from vmoe_runtime import Engine, Setting
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.routing import Array
from vmoe_tools import options
from vmoe_tools.bench.point_result import share_interval
from vmoe_tools.bench.quality import count_right
from vmoe_tools.fewshot.ridge import fit_head
from vmoe_tools.inspect.tensors import read_tensors
from vmoe_tools.output import check_output_file, people_stream, write_json, write_large_file
from vmoe_tools.program import complain, printable
from vmoe_tools.terminal import Progress

_BATCH = 64  # images per call; if a routing group is larger, it is run in one call
_MOST_CLASSES = 1 << 16


@click.command(context_settings=options.CONTEXT)
@options.bundle_argument
@options.required_images_option
@options.out_option("HEAD", "The .npz file to write.", required=True)
@options.count_option(
    "--per-class",
    default=10,
    help="Number of training images per class, chosen at random. If a class has N or fewer, one is held out for the test.",
)
@options.count_option("--seed", least=0, default=0, help="Random seed for choosing the training images.")
@options.setting_options
@options.run_options
def fewshot(
    bundle: Path,
    images: Path,
    out: Path,
    per_class: int,
    seed: int,
    backend: str,
    threads: int | None,
    json_target: str | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Fit a head for the classes of --images to the features of BUNDLE, and measure its accuracy on held-out images.

    BUNDLE is an export with --output features. The classes are the subfolders of a folder, or the labels of an npz file.
    All images that are not used to fit the head are held out. The head is a ridge regression in closed form, so running the
    images takes almost all of the time. To make a bundle with the head, use vmoe export CKPT|BUNDLE --head HEAD.
    """
    if out.suffix != ".npz":
        raise click.UsageError(f"--out {out} must end in .npz")
    check_output_file(out, [bundle, images])
    check_output_file(json_target, [bundle, images, out])
    source, labels, names = _labelled(images)
    chosen, held_out = _pick(labels, names, per_class, seed)
    with Engine.load(bundle, Setting(**given), backend, threads) as engine:
        features = _features(engine, source, np.concatenate([chosen, held_out]), Progress(sys.stderr, quiet=quiet))
    head = fit_head(features[: len(chosen)], labels[chosen], labels.max() + 1)
    right = count_right(features[len(chosen) :] @ head.kernel + head.bias, labels[held_out])
    low, high = share_interval(right, len(held_out))
    arrays: dict[str, Any] = {"kernel": head.kernel, "bias": head.bias, FITTED_TO: np.array(_fitted_to(bundle))}
    arrays |= {"class_names": np.array(names)} if names else {}
    write_large_file(out, lambda file: np.savez(file, **arrays))
    profile = engine.profile.name if engine.profile else None
    result = {
        "bundle": str(bundle),
        "profile": profile,
        "classes": len(head.bias),
        "fitted_images": len(chosen),
        "l2_strength": head.strength,
        "held_out_images": len(held_out),
        "accuracy": right / len(held_out),
        "accuracy_95": [low, high],
    }
    folders = [each.name for each in images.iterdir() if each.is_dir() and not each.name.startswith(".")] if names else []
    empty = sorted(set(folders) - set(names or ()))
    if empty and not quiet:
        complain(f"ignored subfolders without pictures: {', '.join(empty)}")
    few = int((np.bincount(labels) <= per_class).sum())
    if few and not quiet:
        complain(f"classes with at most {per_class} images: {few}; one image of each is held out, the others are fitted to")
    if not quiet:
        where = f", {profile}" if profile else ""
        model = shlex.quote(str(bundle)) if engine.manifest.precision == "fp32" else "CKPT"
        print(
            f"{len(head.bias)} classes, {len(chosen):,} images to fit to{where}; L2 strength {head.strength:g}\n"
            f"Accuracy on {len(held_out):,} held-out images: {right / len(held_out):.1%} "
            f"(95 % interval {low:.1%} to {high:.1%})\n"
            + printable(f"Wrote {out}; next: vmoe export {model} --head {shlex.quote(str(out))}"),
            file=people_stream(json_target),
        )
    write_json(json_target, result)


def _fitted_to(path: Path) -> str:
    """Return the JSON text that identifies the features of the bundle at `path`. A head's file stores this text."""
    with Bundle.open(path, verify=False) as bundle, bundle.open_weights() as file:
        manifest, sampled = bundle.manifest, []
        for tensor in read_tensors(file, manifest.files[WEIGHTS_NAME].size):
            data = file.read(tensor.bytes) if is_sampled(tensor.name) else file.seek(tensor.bytes, os.SEEK_CUR)
            if isinstance(data, bytes):
                sampled.append((tensor.name, data))
    return json.dumps(head_inputs(manifest.model, manifest.input.steps, sampled))


def _labelled(path: Path) -> tuple[ImageSource, Array, tuple[str, ...] | None]:
    """Return the images, their labels i64[N], and the names of the classes. The names are None for an npz file."""
    loose, by_class = pictures_of(path) if path.is_dir() else ([], {})
    if loose and by_class:
        raise click.ClickException(f"{loose[0]} is in no subfolder, so it has no class; move it into one, or out of {path}")
    names = tuple(sorted(by_class)) if path.is_dir() else None
    source = open_images(path, names, len(names) if names else _MOST_CLASSES)
    if source.labels is None or not len(source) or source.labels.max() < 1:
        needed = "a subfolder of pictures for each class" if path.is_dir() else "'labels' in addition to 'images'"
        raise click.ClickException(f"{path} has fewer than two classes; it needs {needed}")
    return source, source.labels, names


def _pick(labels: Array, names: tuple[str, ...] | None, per_class: int, seed: int) -> tuple[Array, Array]:
    """Return two arrays of indices: the images for fitting the head, and all other images.

    The head is fitted to at most `per_class` images of each class.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for index in range(labels.max() + 1):
        of_class = generator.permutation(np.flatnonzero(labels == index))
        if len(of_class) < 2:
            name = names[index] if names else index
            count = "1 image" if len(of_class) else "no images"
            raise click.ClickException(f"class {name} has {count}, and needs at least 2: one to fit to, and one to hold out")
        chosen.append(of_class[: min(per_class, len(of_class) - 1)])
    # Shuffle the images. Otherwise, all images of a routing group would belong to one class.
    picked = generator.permutation(np.concatenate(chosen))
    return picked, generator.permutation(np.setdiff1d(np.arange(len(labels)), picked))


def _features(engine: Engine, source: ImageSource, indices: Array, progress: Progress) -> Array:
    """Return the features f32[N, D] of the images at `indices`, in order. Repeat images to fill the last call."""
    if (output := engine.manifest.output) != "features":
        remedy = "export with vmoe export CKPT --output features"
        raise click.ClickException(f"the bundle returns {output}, and a head needs features; {remedy}")
    multiple = engine.manifest.batch_multiple
    size = max(1, min(_BATCH, len(indices)) // multiple) * multiple
    padded = np.resize(indices, -(-len(indices) // size) * size)
    taken = source.chosen(padded)
    done = []
    with progress.step("features", len(taken)) as advance:
        for batch, _ in taken.whole_batches(size, engine.manifest.input):
            done.append(engine.outputs(batch)[output])
            advance(size, size)
    features: Array = np.concatenate(done)[: len(indices)]
    if not np.isfinite(features).all():
        raise click.ClickException("the model's features are not finite numbers")
    return features
