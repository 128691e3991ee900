"""What a family of models of another library is: how it is recognised, and how its tensors become ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vmoe_export.families.translation import Translation

WRAPPERS = {"model", "module", "_orig_mod", "state_dict"}
"""What training programs put in front of all names."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        title: what people call it.
        model_types: `model_type` of a config.json of these models; empty where they have none.
        landmarks: names of tensors that such a model has.
        prefixes: what may stand in front of the names of the model, such as "vit."; the first that fits is taken.
        ignored: a regular expression for the whole names of tensors that may be there and are not needed: below a prefix as
            they are, beside it with "../" in front.
        processor: how such models take pictures where no file says so, see `preprocessing.processor_steps`.
        any_size: whether the library resizes positions for the size of the pictures, whatever size the config says.
        config_files: where the config may lie beside the checkpoint; the first that is there is read.
        config_key: of the config inside that of a whole model, as transformers has it for this family.
        by_name: the config of an architecture by its name, if the library has such names.
        translate: names each tensor of ours, see `Translation`.
    """

    title: str
    model_types: tuple[str, ...] = ()
    landmarks: tuple[str, ...]
    prefixes: tuple[str, ...]
    ignored: str = ""
    processor: Mapping[str, Any]
    any_size: bool = False
    config_files: tuple[str, ...] = ("config.json",)
    config_key: str = ""
    by_name: Callable[[str], Mapping[str, Any]] | None = None
    translate: Callable[[Translation], None]

    def prefix(self, names: Iterable[str]) -> str | None:
        """The prefix under which names without wrappers have the landmarks; None where none has them."""
        held = set(names)
        return next((each for each in self.prefixes if all(each + name in held for name in self.landmarks)), None)

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor is one of those that may be there and are not needed."""
        return re.fullmatch(self.ignored, name) is not None


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Stored names by the names joined by '.' that a model gave them, without what a training program put in front.

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
    return found
