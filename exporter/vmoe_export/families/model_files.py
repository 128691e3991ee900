"""Read the config and the preprocessing files next to another library's model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmoe_export.checkpoint import PICTURES, PROCESSOR
from vmoe_export.errors import ConfigError, OptionError
from vmoe_export.families import open_clip
from vmoe_export.families.family import Family
from vmoe_export.model.config_file import load_config
from vmoe_export.model.model_facts import mapping
from vmoe_runtime.errors import shown


@dataclass(frozen=True)
class ModelFiles:
    """The content of the files next to a model.

    Attributes:
        whole: the config of the whole model. If there is none, the mapping is empty.
        own: the config of the vision model alone, with the keys that the family reads.
        pictures: the config of an image processor, or None if no file has one.
        found: the files in the folder that were read, except the checkpoint itself.
    """

    whole: Mapping[str, Any]
    own: Mapping[str, Any]
    pictures: Mapping[str, Any] | None
    found: list[Path]


def read_model_files(
    folder: Path,
    family: Family,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    architecture: str | None = None,
) -> ModelFiles:
    """Read the config and preprocessing files in a checkpoint's folder.

    Args:
        folder: the checkpoint's folder.
        family: the checkpoint's family.
        config: a config, or its path, to use instead of the one in the folder.
        architecture: name of an architecture. The config that the family's library has for it replaces the one in the
            folder.

    Raises:
        ConfigError: a file is damaged, or is for another model.
        OptionError: the family has no architecture names, or its library has no architecture of this name.
    """
    found = [folder / name for name in family.config_files if (folder / name).is_file()][:1]
    if architecture is not None:
        if family.by_name is None:
            raise OptionError(f"a {family.title} has no architecture names; omit --architecture")
        config = family.by_name(architecture)
    path = found[0] if config is None and found else config
    found = found if config is None else []
    whole = path if isinstance(path, Mapping) else load_config(Path(path)) if path is not None else {}
    if open_clip.is_config(whole):
        if open_clip.CONFIG_NAME not in family.config_files:
            raise ConfigError(f"the config is for open_clip, but the tensors are those of {family.title}")
        own: Mapping[str, Any] = open_clip.tower_config(whole, is_timm=family.prefixes == ("visual.trunk.",))
        return ModelFiles(whole, own, open_clip.processor_config(whole) if whole.get("preprocess_cfg") else None, found)
    kind = whole.get("model_type")
    if kind is not None and kind not in family.model_types:
        raise ConfigError(f"the config says model_type {shown(kind)}, but the tensors are those of {family.title}")
    own = _vision_config(whole, family)
    # transformers 5 saves the image processor's config inside the whole processor's config, and reads that config first.
    processor = load_config(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}
    if pictures := mapping(processor, "image_processor"):
        return ModelFiles(whole, own, pictures, [*found, folder / PROCESSOR])
    if (folder / PICTURES).is_file():
        pictures = load_config(folder / PICTURES)
        return ModelFiles(whole, own, pictures, [*found, folder / PICTURES])
    # In older timm files, all fields are in one mapping.
    is_flat = "architecture" in whole and "input_size" in whole
    return ModelFiles(whole, own, whole if is_flat else mapping(whole, "pretrained_cfg") or None, found)


def _vision_config(whole: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """Return the vision model's part of a transformers config.json.

    Raise ConfigError if the config has two such parts with different values.
    """
    if not family.config_key:
        return whole
    # If a whole model's config has no vision part, transformers ignores the config's other keys and uses default values for
    # the vision model.
    is_tower = whole.get("model_type") in (None, family.model_types[0])
    vision = mapping(whole, family.config_key) or (whole if is_tower else {})
    # Older configs have a second vision part, whose key ends in `_dict`. transformers reads this part only for the whole
    # model, not for the vision model alone.
    for key, value in mapping(whole, f"{family.config_key}_dict").items():
        if vision.get(key, value) != value:
            raise ConfigError(f"the config says {key} {shown(vision[key])}, but in {family.config_key}_dict {shown(value)}")
    return vision
