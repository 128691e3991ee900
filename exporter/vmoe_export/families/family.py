"""A family of models from another library.

It specifies how the family is recognized, and how its tensors are translated to the exporter's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmoe_export.checkpoint.base import WRAPPERS
from vmoe_export.families.translation import Translation

_SAVED = {
    r"^(vit\.|deit\.|)layers\.(\d+)\.mlp\.fc1\.": r"\1encoder.layer.\2.intermediate.dense.",
    r"^(vit\.|deit\.|)layers\.(\d+)\.mlp\.fc2\.": r"\1encoder.layer.\2.output.dense.",
    r"^(vit\.|deit\.|)layers\.(\d+)\.": r"\1encoder.layer.\2.",
    r"(encoder\.layer\.\d+\.attention)\.q_proj\.": r"\1.attention.query.",
    r"(encoder\.layer\.\d+\.attention)\.k_proj\.": r"\1.attention.key.",
    r"(encoder\.layer\.\d+\.attention)\.v_proj\.": r"\1.attention.value.",
    r"(encoder\.layer\.\d+\.attention)\.o_proj\.": r"\1.output.dense.",
}
"""Regular expressions for names that transformers 5 uses in memory, and so in a `state_dict()`, and the names that
`save_pretrained` writes instead."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        title: the family's display name.
        model_types: values of `model_type` in the config.json of these models. It is empty if their config has no such
            field.
        landmarks: names of tensors that every model of the family has.
        architectures: a regular expression for the family's architecture names. It is empty unless another family has the
            same landmarks and only the name distinguishes the two families.
        dimensions: number of dimensions of some tensors, by name. It is empty unless another family has the same landmarks
            and these numbers distinguish the two families.
        prefixes: prefixes that tensor names may have, such as "vit."; the first that fits is used.
        ignored: a regular expression for tensors that may exist but are not needed. It must match the whole name, without
            the prefix. If a name does not begin with the prefix, "../NAME" is matched instead of the name.
        processor: the preprocessing to use if no file defines it. See `image_processors.processor_steps`.
        any_size: whether the library ignores the image size in the config, and resizes the positions to fit the preprocessed
            pictures.
        config_files: possible names of the config next to the checkpoint. The first that exists is read.
        config_key: key of the vision model's config inside the config of a whole transformers model.
        defaults: the library's default config values that affect how tensors are interpreted.
        by_name: function that returns the config of an architecture by name. It is None if the library has no such names.
        translate: function that defines each of the exporter's tensors by calling the methods of a `Translation`.
    """

    title: str
    model_types: tuple[str, ...] = ()
    landmarks: tuple[str, ...]
    architectures: str = ""
    dimensions: Mapping[str, int] = field(default_factory=dict)
    prefixes: tuple[str, ...]
    ignored: str = ""
    processor: Mapping[str, Any]
    any_size: bool = False
    config_files: tuple[str, ...] = ("config.json",)
    config_key: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    by_name: Callable[[str], Mapping[str, Any]] | None = None
    translate: Callable[[Translation], None]

    def prefix(self, names: Iterable[str]) -> str | None:
        """Return the first prefix with which all landmarks are in `names`, or None if there is no such prefix."""
        held = set(names)
        return next((each for each in self.prefixes if all(each + name in held for name in self.landmarks)), None)


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Map a model's tensor names to the names under which the tensors are stored.

    A model's names are joined by '.', without the prefixes that training programs add. Names that transformers uses only in
    memory are replaced by those that transformers writes to files.

    Examples:
        >>> unwrapped(["model/module/norm/weight", "optimizer/step"])
        {'norm.weight': 'model/module/norm/weight', 'optimizer.step': 'optimizer/step'}
    """
    found: dict[str, str] = {}
    for stored in names:
        words = re.split(r"[./]", stored)
        while len(words) > 1 and words[0] in WRAPPERS:
            del words[0]
        found.setdefault(".".join(words), stored)
    # In-memory names contain o_proj. q_proj is no sign of in-memory names, because it also occurs in InternViT's files.
    if not any(re.search(r"layers?\.0\.attention\.o_proj\.", name) for name in found):
        return found
    return {_as_saved(name): stored for name, stored in found.items()}


def _as_saved(name: str) -> str:
    for in_memory, saved in _SAVED.items():
        name = re.sub(in_memory, saved, name)
    return name
