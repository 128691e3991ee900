"""The bundles of a run on images: the inspected one, and others of the same model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime import Engine
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.routing_kinds import SoftRules, TopKRules
from vmoe_tools.command_line import UsageError, printable


@dataclass(frozen=True)
class LoadedBundle:
    """A loaded bundle: its name, or its path where several have that name, and the engine."""

    name: str
    engine: Engine


def load_bundles(
    bundle: Path, others: Sequence[Path], profile: str | None, backend: str, threads: int | None, closing: ExitStack
) -> list[LoadedBundle]:
    """Loads the inspected bundle and then the others, every file checked.

    Args:
        bundle: the inspected one.
        others: of the same model; their precision and groups may differ.
        profile: name of the setting; None for the first profile of the inspected bundle.
        backend: name, or "auto".
        threads: per call.
        closing: what closes the engines.

    Raises:
        UsageError: a bundle is of another model.
        RoutingError: a bundle can't be run with the profile.
        VmoeError: a bundle can't be loaded.
    """
    paths = list(dict.fromkeys([bundle, *others]))
    first = Bundle.open(bundle, verify=False).manifest
    for path in paths[1:]:
        _check_same_model(path, Bundle.open(path, verify=False).manifest, bundle, first)
    folders = [path.resolve().name for path in paths]
    loaded: list[LoadedBundle] = []
    for path, folder in zip(paths, folders, strict=True):
        engine = closing.enter_context(Engine.load(path, profile, backend, threads))
        profile = profile if engine.profile is None else engine.profile.name
        loaded.append(LoadedBundle(printable(str(path) if folders.count(folder) > 1 else folder), engine))
    return loaded


def _check_same_model(path: Path, manifest: Manifest, first_path: Path, first: Manifest) -> None:
    if _identity(manifest) != _identity(first):
        raise UsageError(
            f"--with {path} is another model than {first_path}, or makes whole places of a ratio in another way; bundles "
            "side by side are exports of one model"
        )
    if (manifest.output, manifest.output_shape) != (first.output, first.output_shape):
        raise UsageError(f"--with {path} and {first_path} don't put out the same: their answers can't be compared")


def _identity(manifest: Manifest) -> object:
    """What exports of one model have in common, whatever their precision and groups are."""
    model = {name: value for name, value in manifest.model.items() if name != "origins"}
    image, rules = manifest.input, manifest.rules
    size = (image.height, image.width, image.channels)
    if rules is None:
        return model, size, None
    kind = (rules.kind, rules.num_experts, manifest.moe_layers)
    if isinstance(rules, SoftRules):
        return model, size, kind, rules.slots_per_expert
    members = rules.ensemble_size if isinstance(rules, TopKRules) else 1
    return model, size, kind, members, rules.rounding, rules.capacity_multiple_of
