"""Loads the engines that a command measures, one per bundle and backend, and describes the machine.

The time and the memory that loading an engine takes are recorded.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from vmoe_runtime import Engine
from vmoe_runtime.backends import BACKENDS, Parallelism
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.installation import installed_version
from vmoe_runtime.processors import usable_processors
from vmoe_runtime.profiles import Profile
from vmoe_tools.machine import cpu_model, resident_bytes
from vmoe_tools.program import printable


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle on one backend.

    Attributes:
        name: name of the bundle, or its path if several bundles have the same name.
        path: folder of the bundle.
        engine: the engine that runs the bundle.
        compared: whether the bundle is another model, loaded for comparison with the measured model.
        parallelism: requested numbers of threads and streams.
        load_seconds: loading time in seconds, including the check of every file.
        resident_bytes: growth of the process's memory during loading; None if the system doesn't report the memory.
    """

    name: str
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
    profiles: Sequence[str | None],
    parallelism: Parallelism,
    closing: ExitStack,
    *,
    any_groups: bool = False,
    same_images: bool = True,
) -> list[LoadedBundle]:
    """Load one engine per bundle and backend. If the backend fixes each engine to one profile, load one per profile.

    Args:
        bundles: folders with exports of one model, for example in several precisions.
        compared: folders with other models. Each of these models is loaded with its first profile.
        backends: names of backends, or "auto".
        profiles: names of the requested profiles; None for a bundle's first profile.
        parallelism: requested numbers of threads per call and of streams.
        closing: an exit stack that closes the engines.
        any_groups: whether the exports of the model may have different routing groups.
        same_images: whether compared models run on the images of the measured model. If true, all models must have the same
            classes.

    Raises:
        click.UsageError: one of these applies:

            - the bundles are exports of different models, or have different outputs
            - a compared bundle is also one of the measured bundles
            - a compared bundle has other classes, and `same_images` is set
        VmoeError: a bundle can't be loaded.
    """
    if same := next((path for path in compared if path in bundles), None):
        raise click.UsageError(f"--compare {same} is already measured; name another bundle")
    _check_comparable(bundles, compared if same_images else (), any_groups=any_groups)
    engines: dict[tuple[Path, str, Profile | None], LoadedBundle] = {}
    paths = list(dict.fromkeys([*bundles, *compared]))
    folders = [path.resolve().name for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        name = printable(str(path) if folders.count(folder) > 1 else folder)
        for backend in dict.fromkeys(backends):
            for profile in _profiles_to_load(path, backend, profiles if path in bundles else [None]):
                start, before = time.perf_counter(), resident_bytes()
                engine = Engine.load(path, profile, backend, parallelism.threads, streams=parallelism.streams)
                seconds, after = time.perf_counter() - start, resident_bytes()
                closing.enter_context(engine)
                grown = None if before is None or after is None else max(after - before, 0)
                loaded = LoadedBundle(name, path, engine, path not in bundles, parallelism, seconds, grown)
                engines.setdefault((path, engine.backend, engine.only_profile), loaded)
    return list(engines.values())


def describe_machine(engines: Sequence[LoadedBundle]) -> dict[str, Any]:
    """Describe this machine and its software. The description covers what measurements depend on.

    Args:
        engines: the measured engines, which describe their runtimes.

    Returns:
        Plain values for JSON:

        - `cpu`: model name
        - `cores`: number of cores that this process may use
        - `os`: name and version of the operating system
        - `python`, `numpy`: versions
        - `vmoe_runtime`: version; None if it is not installed as a package
        - `backends`: a description of each runtime, by the name of its backend
        - `engines`: for each bundle and backend, `bundle`, `backend`, `precision`, and `load_seconds` and `resident_bytes`
          as in `LoadedBundle`
        - `resident_bytes`: memory of the whole process
    """
    return {
        "cpu": cpu_model(),
        "cores": usable_processors(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "vmoe_runtime": installed_version("vmoe-export"),
        "backends": {loaded.engine.backend: loaded.engine.backend_description for loaded in engines},
        "engines": [
            {
                "bundle": loaded.name,
                "backend": loaded.engine.backend,
                "precision": loaded.engine.manifest.precision,
                "load_seconds": loaded.load_seconds,
                "resident_bytes": loaded.resident_bytes,
            }
            for loaded in engines
        ],
        "resident_bytes": resident_bytes(),
    }


def _check_comparable(bundles: Sequence[Path], compared: Sequence[Path], *, any_groups: bool) -> None:
    first = Bundle.open(bundles[0], verify=False).manifest
    for path in (*bundles[1:], *compared):
        other = Bundle.open(path, verify=False).manifest
        if path in bundles and _identity(other, any_groups=any_groups) != _identity(first, any_groups=any_groups):
            how = "rounds capacity ratios in another way" if any_groups else "routes in other groups"
            raise click.UsageError(
                f"{path} is another model than {bundles[0]}, or {how}; only exports of one model can be measured together"
            )
        if path not in bundles and (first.output, other.output) != ("logits", "logits"):
            continue
        if other.output != first.output:
            raise click.UsageError(f"{path} and {bundles[0]} have different outputs: their answers can't be compared")
        if other.outputs != first.outputs:
            raise click.UsageError(
                f"{path} has {other.outputs} classes, and {bundles[0]} has {first.outputs}: their answers can't be compared"
            )
        if other.class_names != first.class_names and None not in (other.class_names, first.class_names):
            raise click.UsageError(f"{path} and {bundles[0]} have different class names: their answers can't be compared")


def _identity(manifest: Manifest, *, any_groups: bool) -> object:
    """Return the properties that are the same in all exports of one model."""
    model = {name: value for name, value in manifest.model.items() if name != "origins"}
    rules, group = manifest.rules, manifest.group
    if any_groups:
        rules, group = replace(rules, group_tokens=0), None
    return model, manifest.moe_layers, group, rules


def _profiles_to_load(bundle: Path, backend: str, profiles: Sequence[str | None]) -> Sequence[str | None]:
    """Return the names of the profiles for which to load an engine.

    None stands for the bundle's first profile, or for no profile if the bundle has none.
    """
    if backend not in BACKENDS or not BACKENDS[backend].one_profile:
        return profiles[:1] or [None]
    manifest = Bundle.open(bundle, verify=False).manifest
    exported = manifest.tensorrt.graphs if manifest.tensorrt and manifest.profiles else ()
    return profiles or list(exported) or [None]
