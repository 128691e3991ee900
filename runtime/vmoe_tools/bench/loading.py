"""The engines of a measurement: each bundle on each backend, and what loading it took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime import Engine
from vmoe_runtime.backends import BACKENDS, Parallelism
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_tools.command_line import UsageError, printable

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class MeasuredEngine:
    """A bundle on one backend.

    Attributes:
        bundle: its name, or its path where several have that name.
        path: its folder.
        engine: what was loaded.
        compared: it is no other form of the measured model but one to compare with.
        parallelism: threads and streams as asked for.
        load_seconds: how long loading took, every file checked.
        resident_bytes: what the process's memory grew by meanwhile; None where the system doesn't tell.
    """

    bundle: str
    path: Path
    engine: Engine
    compared: bool
    parallelism: Parallelism
    load_seconds: float
    resident_bytes: int | None


def load_engines(
    bundles: Sequence[Path],
    compared: Sequence[Path],
    backends: Sequence[str],
    profiles: Sequence[str],
    parallelism: Parallelism,
    closing: ExitStack,
) -> list[MeasuredEngine]:
    """One engine per bundle and backend, or per profile too where a backend runs only one.

    Args:
        bundles: folders of one model, such as exports of several precisions.
        compared: folders of other models that answer the same images.
        backends: names; "auto" is the backend that it stands for.
        profiles: names that were asked for.
        parallelism: threads per call, and streams.
        closing: what closes the engines.

    Raises:
        UsageError: the bundles are not of one model, or take other images or give other outputs.
        VmoeError: a bundle can't be loaded.
    """
    _check_comparable(bundles, compared)
    engines: dict[tuple[Path, str, Profile | None], MeasuredEngine] = {}
    paths = list(dict.fromkeys([*bundles, *compared]))
    folders = [path.resolve().name for path in paths]
    for path in paths:
        for backend in dict.fromkeys(backends):
            for profile in _profiles_to_load(path, backend, profiles if path in bundles else ()):
                start, before = time.perf_counter(), resident_bytes()
                engine = Engine.load(path, profile, backend, parallelism.threads, streams=parallelism.streams)
                seconds, after = time.perf_counter() - start, resident_bytes()
                closing.enter_context(engine)
                grown = None if before is None or after is None else max(after - before, 0)
                folder = path.resolve().name
                name = printable(str(path) if folders.count(folder) > 1 else folder)
                loaded = MeasuredEngine(name, path, engine, path not in bundles, parallelism, seconds, grown)
                engines.setdefault((path, engine.backend, engine.only_profile), loaded)
    return list(engines.values())


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system doesn't tell."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)


def _check_comparable(bundles: Sequence[Path], compared: Sequence[Path]) -> None:
    first = Bundle.open(bundles[0], verify=False).manifest
    for path in (*bundles[1:], *compared):
        other = Bundle.open(path, verify=False).manifest
        if path in bundles and _model_and_groups(other) != _model_and_groups(first):
            raise UsageError(
                f"{path} is another model than {bundles[0]}, or routes in other groups; bundles side by side are exports "
                "of one model, and another one comes after --compare"
            )
        if (other.output, other.output_shape) != (first.output, first.output_shape):
            raise UsageError(f"{path} and {bundles[0]} don't put out the same: their answers can't be compared")
        if other.class_names != first.class_names and None not in (other.class_names, first.class_names):
            raise UsageError(f"{path} and {bundles[0]} have other class names: their answers can't be compared")


def _model_and_groups(manifest: Manifest) -> object:
    """What exports of one model in several precisions have in common."""
    model = {name: value for name, value in manifest.model.items() if name != "origins"}
    return model, manifest.moe_layers, manifest.group, manifest.rules


def _profiles_to_load(bundle: Path, backend: str, profiles: Sequence[str]) -> Sequence[str | None]:
    """Names of the profiles that a backend is loaded with; None stands for the bundle's first, or for a dense model."""
    if backend not in BACKENDS or not BACKENDS[backend].one_profile:
        return [None]
    manifest = Bundle.open(bundle, verify=False).manifest
    exported = manifest.tensorrt.graphs if manifest.tensorrt and manifest.profiles else ()
    return profiles or list(exported) or [None]
