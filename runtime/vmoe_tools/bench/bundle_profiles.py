"""Adds a profile to an existing bundle."""

from __future__ import annotations

import json
import os
from pathlib import Path

from vmoe_measure.flops import rows_of_all_slots, sparse_flops
from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.bundle.manifest_reader import parse_manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BundleError
from vmoe_runtime.profiles import Profile
from vmoe_tools.bench.quality import model_shape
from vmoe_tools.output import write_file


def add_profile(path: str | os.PathLike[str], profile: Profile) -> bool:
    """Append a profile to a bundle's manifest. The first profile stays the default.

    The manifest is replaced atomically: a process that loads the bundle at the same time reads either the old manifest or
    the new one. No other file changes, so all hashes in the manifest stay valid.

    Args:
        path: the `NAME.vmoe` folder.
        profile: a setting of the bundle's model, from `Engine.setting`.

    Returns:
        False if the bundle already has the profile, else True.

    Raises:
        BundleError: the folder is not a bundle, the bundle was changed after export, or it doesn't accept the profile.
        click.ClickException: the manifest can't be written.
    """
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
    if profile.name in manifest.profiles:
        return False
    if not manifest.rules.settings:
        raise BundleError(f"{path} has no settings, and so no profiles")
    entry = {name: value for name, value in profile.entry().items() if value is not None}
    raw = {**manifest.raw, "profiles": [*manifest.raw["profiles"], entry]}
    flops, shape = raw.get("flops_per_image"), model_shape(manifest)
    if isinstance(flops, dict) and shape is not None:
        own = sparse_flops(shape, rows_of_all_slots(manifest.rules, profile, shape), profile.merge or 0)
        raw["flops_per_image"] = {**flops, profile.name: own}
    text = json.dumps(raw, indent=1) + "\n"
    try:
        parse_manifest(text.encode())
    except BundleError as error:
        raise BundleError(f"{path} can't have the profile {profile.name}: {error}") from None
    write_file(Path(path, MANIFEST_NAME), text)
    return True
