"""`vmoe-serve triton`: from a bundle to a model repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vmoe_runtime import library_path
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle, while_unchanged
from vmoe_runtime.errors import BackendError
from vmoe_runtime.profiles import Profile
from vmoe_serve.settings import model_name, named
from vmoe_serve.triton.arguments import Arguments
from vmoe_serve.triton.model_config import Scheduling
from vmoe_serve.triton.repository import Model, onnxruntime_model, python_model, write_repository
from vmoe_serve.triton.target import check_repository_target
from vmoe_tools.command_line import CommandError, UsageError, printable

_USUAL_BATCH = 32


def run(arguments: Arguments) -> None:
    """Runs the subcommand.

    Raises:
        UsageError, RoutingError: the command line asks for what the bundle hasn't.
        VmoeError, OSError: whatever else goes wrong.
    """
    check_repository_target(arguments.repository, force=arguments.force)
    models = while_unchanged(lambda: _models(arguments))
    copied = write_repository(arguments.repository, models, force=arguments.force)
    if not arguments.quiet:
        _print_summary(arguments, models, copied)


def _models(arguments: Arguments) -> list[Model]:
    """The models of a bundle whose every byte was checked; nothing is linked before it is closed, as links change files."""
    with Bundle.open(arguments.bundle) as bundle:
        manifest = bundle.manifest
        profiles = _profiles(manifest, arguments.profiles)
        scheduling = Scheduling(_max_batch(manifest, arguments.max_batch), arguments.instances)
        name = arguments.name or model_name(arguments.bundle)
        models = []
        if arguments.backend != "onnxruntime":
            models.append(python_model(bundle, name, scheduling, profiles[0]))
        if arguments.backend != "python":
            library = _library(manifest, arguments)
            for profile in profiles:
                of_profile = f"{name}-{profile.name if profile else 'onnxruntime'}"
                models.append(onnxruntime_model(bundle, of_profile, scheduling, profile, library))
        bundle.verify_weights()
    return models


def _profiles(manifest: Manifest, names: Sequence[str]) -> list[Profile | None]:
    """The profiles that were asked for, each once; one None where there is nothing to set."""
    chosen = [named(manifest, name) for name in names] or manifest.profiles.values()
    return list({profile.name: profile for profile in chosen}.values()) or [None]


def _max_batch(manifest: Manifest, asked: int | None) -> int:
    multiple = manifest.batch_multiple
    if asked is None:
        return max(1, _USUAL_BATCH // multiple) * multiple
    if asked % multiple:
        raise UsageError(
            f"--max-batch {asked} doesn't fit: the bundle routes in groups ({manifest.group}) that need a multiple of "
            f"{multiple}"
        )
    return asked


def _library(manifest: Manifest, arguments: Arguments) -> Path:
    """The op library for Triton's ONNX Runtime backend."""
    if manifest.batch_multiple > 1:
        raise CommandError(
            f"{arguments.bundle} routes in groups ({manifest.group}), and Triton's ONNX Runtime backend may put images of "
            "several requests into one; export it with --group image, or take --backend python"
        )
    try:
        return Path(library_path()).absolute()
    except BackendError as error:
        raise CommandError(f"--backend {arguments.backend} needs the op library: {error}") from None


def _print_summary(arguments: Arguments, models: Sequence[Model], copied: int) -> None:
    width = max(len(model.name) for model in models)
    for model in models:
        print(f"{model.name:<{width}}  {model.serves}")
    how = (
        f"{copied / 1e6:.1f} MB were copied, as they can't be linked to from there"
        if copied
        else "hard links, which take no space"
    )
    print(f"files of {printable(str(arguments.bundle))}: {how}")
    print(f"tritonserver --model-repository={printable(str(arguments.repository.absolute()))}")
