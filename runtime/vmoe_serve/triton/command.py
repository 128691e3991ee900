"""The command `vmoe serve triton`, which writes a model repository from a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vmoe_runtime import BackendError, library_path
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_serve.command import name_option
from vmoe_serve.levels import model_name
from vmoe_serve.triton.model_config import Scheduling
from vmoe_serve.triton.repository import REPOSITORY, Model, onnxruntime_model, python_model, write_repository
from vmoe_tools.options import (
    CONTEXT,
    bundle_argument,
    count_option,
    errors_only_option,
    profiles_option,
    threads_option,
    verbose_option,
)
from vmoe_tools.program import printable

_USUAL_BATCH = 32


@click.command(context_settings=CONTEXT)
@bundle_argument
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@profiles_option
@count_option("--batch-size", most=65536, help=f"Maximum images per execution. Default: about {_USUAL_BATCH}.")
@name_option
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime", "both"]),
    default="python",
    show_default=True,
    help="Triton's backend. python: one model, and each request chooses its setting. onnxruntime: a model NAME-PROFILE for "
    "each profile, without Python.",
)
@count_option("--instances", most=1024, default=1, help="Instances of each model, which run in parallel.")
@threads_option
@click.option("--force", is_flag=True, help="Replace a repository that this command wrote.")
@errors_only_option
@verbose_option
def triton(bundle: Path, repository: Path, force: bool, quiet: bool, **options: Any) -> None:
    """Write a model repository for the Triton Inference Server.

    The first --profile is the default for requests that specify no profile. The repository contains hard links to the
    bundle's files.
    """
    REPOSITORY.check(repository, force=force)
    models = _models(bundle, options)
    copied = write_repository(repository, models, force=force)
    if quiet:
        return
    width = max(len(model.name) for model in models)
    for model in models:
        click.echo(f"{model.name:<{width}}  {model.serves}")
    how = f"{copied / 1e6:.1f} MB copied, as the repository can't link to them" if copied else "hard links"
    click.echo(f"files of {printable(str(bundle))}: {how}")
    click.echo(f"tritonserver --model-repository={printable(str(repository.absolute()))}")


def _models(path: Path, options: dict[str, Any]) -> list[Model]:
    """Check the whole bundle, close it, and return the models for the repository.

    The bundle is closed before the repository links to its files. A link changes a file's status, and an open bundle
    refuses changed files.
    """
    backend = options["backend"]
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        profiles = _profiles(manifest, options["profiles"])
        scheduling = Scheduling(_batch_size(manifest, options["batch_size"]), options["instances"], options["threads"])
        name = options["name"] or model_name(path)
        models = [] if backend == "onnxruntime" else [python_model(bundle, name, scheduling, profiles[0])]
        if backend != "python":
            library = _library(manifest, path, backend)
            for profile in profiles:
                of_profile = f"{name}-{profile.name if profile else 'onnxruntime'}"
                models.append(onnxruntime_model(bundle, of_profile, scheduling, profile, library))
        bundle.verify_weights()
    return models


def _profiles(manifest: Manifest, names: Sequence[str]) -> list[Profile | None]:
    """Return the requested profiles without duplicates, or the stored profiles if `names` is empty.

    For a model without settings, the list contains one None.
    """
    chosen = [manifest.profile_named(name) for name in names] or manifest.profiles.values()
    return list({profile.name: profile for profile in chosen}.values()) or [None]


def _batch_size(manifest: Manifest, requested: int | None) -> int:
    multiple = manifest.batch_multiple
    if requested is None:
        return max(1, _USUAL_BATCH // multiple) * multiple
    if misfit := manifest.misfit(requested):
        raise click.UsageError(f"--batch-size {requested} doesn't fit: the {misfit}")
    return requested


def _library(manifest: Manifest, bundle: Path, backend: str) -> Path:
    """Return the path of the op library for Triton's ONNX Runtime backend.

    Raises:
        click.ClickException: the op library is not installed, or the bundle routes images in groups.
    """
    if manifest.batch_multiple > 1:
        raise click.ClickException(
            f"{bundle} routes in groups ({manifest.group}), and Triton's ONNX Runtime backend may put images of several "
            "requests into one; export it with --group image, or take --backend python"
        )
    try:
        return Path(library_path()).absolute()
    except BackendError as error:
        raise click.ClickException(f"--backend {backend} needs the op library: {error}") from None
