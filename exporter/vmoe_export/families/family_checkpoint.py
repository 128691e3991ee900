"""Read another library's model as a checkpoint with official names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.checkpoint.base import WRAPPERS, Array, Checkpoint, TensorInfo
from vmoe_export.errors import CheckpointError, OptionError
from vmoe_export.families.family import Family, unwrapped
from vmoe_export.families.family_list import family_by_name
from vmoe_export.families.image_processors import processor_steps
from vmoe_export.families.model_files import ModelFiles, read_model_files
from vmoe_export.families.translation import Part, Translation
from vmoe_export.model.model_config import pixels
from vmoe_runtime.bundle.manifest import Probabilities
from vmoe_runtime.errors import VmoeError, shown


class FamilyCheckpoint(Checkpoint):
    """The tensors of a family's model in float32, with the names and shapes of the official tree.

    Args:
        source: the checkpoint. The caller closes it.
        family: the family of the model.
        config: the content or the path of a config.json. Default: the config.json next to the checkpoint, if there is one.
        image_size: (height, width) in pixels. Default: the size in the preprocessing config, or else the size that fits the
            position embedding.
        architecture: name of an architecture. The config that the family's library has for this architecture is used.
        given: the options `heads`, `activation` and `pooling`, by name. They set what neither tensors nor configs determine.

    Attributes:
        config: the part of an official config that the tensors don't determine. It also has fields that official configs do
            not have.
        preprocess: the steps that turn a picture into an image.
        class_names: class names from the config, or None if it has none.
        probabilities: how transformers converts the model's logits to probabilities. None stands for the default, softmax.

    Raises:
        CheckpointError, ConfigError, OptionError: something does not fit the family. The message says what it is.
    """

    def __init__(
        self,
        source: Checkpoint,
        family: Family,
        config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        image_size: tuple[int, int] | None = None,
        architecture: str | None = None,
        **given: Any,
    ) -> None:
        self._source, self._family = source, family
        self._names = self._names_of(source)
        files = read_model_files(_folder(source.path), family, config, architecture)
        self._family = family = family_by_name(family, files.own)
        processor = files.pictures
        if processor and not processor.keys() & {"image_processor_type", "feature_extractor_type"}:
            processor = {**family.processor, **processor}  # if no processor class is named, the model type's applies
        steps, mean, std = processor_steps(processor or family.processor, image_size)
        named = family.any_size or (processor and any(processor.get(key) for key in ("size", "crop_size", "input_size")))
        is_given = image_size is not None
        if named and not is_given:
            image_size = (steps.steps[-1].height, steps.steps[-1].width)
        tensors = {name: source.info[stored] for name, stored in self._names.items()}
        own = files.own and {**family.defaults, **files.own}
        model = Translation(tensors, self._prefix, own, given, image_size, mean=mean, std=std)
        try:
            family.translate(model)
        except VmoeError:
            if not model.missing:
                raise
        model.check_complete(has_architectures=family.by_name is not None)
        self._check_all_used(model)
        assert model.image_size is not None
        if not named:
            steps, *_ = processor_steps(processor or family.processor, model.image_size)
        self.preprocess = str(steps)
        height, width = model.image_size
        is_squashed = (processor or family.processor).get("crop_mode") == "squash"
        if height != width and not is_squashed and self.preprocess.endswith(f"round_central_crop({height},{width})"):
            model.notes.append("pictures are squashed, because timm's crop is only supported for square images")
        self.config: dict[str, Any] = {**model.model, "image_size": list(model.image_size)}
        self.class_names = _class_names(files.whole)
        self.probabilities = _probabilities(files.whole, model.parts) if family.model_types else None
        self._parts = model.parts
        stored = {name: TensorInfo(part.shape, np.dtype(np.float32)) for name, part in model.parts.items()}
        super().__init__(source.path, source.format, [*source.files, *files.found], stored)
        self.notes = (
            *source.notes,
            *self.notes,
            f"the model is a {family.title}",
            *_told(model, files, is_sized=family.any_size and not is_given),
            *model.notes,
        )
        self.source, self.family_title = source.source, family.title

    def _names_of(self, source: Checkpoint) -> dict[str, str]:
        """Map tensor names to stored names, and set `_prefix` to the family's prefix.

        The tensor names in the result are without the prefix. If a name has no prefix in the file, it has "../" in front of
        it in the result. If the file also holds a training program's tensors, they are dropped and listed in a note.

        Raises:
            CheckpointError: the file holds two models.
        """
        names = unwrapped(source.info)
        if twice := source.info.keys() - names.values():
            raise CheckpointError(f"the file holds two models: tensor {shown(min(twice))} occurs twice; keep one of them")
        self._prefix = prefix = self._family.prefix(names) or ""
        model = names[prefix + self._family.landmarks[0]].split("/")[0]
        beside = {part for stored in names.values() if (part := stored.split("/")[0]) != model and model in WRAPPERS}
        if beside:  # the file also holds the state of a training program
            self.notes = (f"ignored (not part of the model): {', '.join(sorted(beside))}",)
            names = {name: stored for name, stored in names.items() if stored.split("/")[0] == model}
        return {name.removeprefix(prefix) if name.startswith(prefix) else f"../{name}": own for name, own in names.items()}

    def _check_all_used(self, model: Translation) -> None:
        ignored = re.compile(self._family.ignored)
        unknown = [name for name in self._names if name not in model.used and not ignored.fullmatch(name)]
        if unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise CheckpointError(
                f"it has a tensor {model.told(min(unknown))}{more}, which does not exist in {self._family.title}"
            )
        unasked = (option for option, value in model.given.items() if value is not None and option not in model.asked)
        if (option := next(unasked, None)) is not None:
            raise OptionError(f"the {option} of a {self._family.title} is known; omit --{option}")

    def _read(self, stored_name: str) -> Array:
        part = self._parts[stored_name]
        # Compute in float64, so that scaled float32 values are rounded only once. Values beyond the float32 range become
        # infinite, and the caller refuses them.
        with np.errstate(over="ignore", invalid="ignore"):
            arrays = [np.asarray(self._source[self._names[name]], np.float64) for name in part.sources]
            for name, array in zip(part.sources, arrays, strict=True):
                if not np.isfinite(array).all():
                    raise CheckpointError(f"{self._names[name]} holds NaN or infinite values")
            return np.ascontiguousarray(np.reshape(part.make(*arrays), part.shape), np.float32)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _told(model: Translation, files: ModelFiles, *, is_sized: bool) -> Iterator[str]:
    """Yield notes about values that are assumed because no file provides them."""
    if not files.whole:
        yield "the model has no config"
    if model.taken:
        taken = ", ".join(f"{name} {value}" for name, value in model.taken.items())
        yield f"no file sets these, so the family's usual values are used: {taken}"
    if not files.pictures:
        colours = f"mean {_listed(model.mean)} and std {_listed(model.std)}"
        yield f"no file sets the preprocessing, so the family's usual one is used, with {colours}"
        if is_sized and model.image_size:
            yield f"images have {pixels(model.image_size)} px, as the family's image processor makes them"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _class_names(config: Mapping[str, Any]) -> Sequence[str] | None:
    """Return the class names in a config.json.

    If it has no class names, or if each name is only "LABEL_" and a number, return None.
    """
    names = config.get("id2label")
    if isinstance(told := config.get("label_names"), list):  # timm's name for it
        names = {str(i): name for i, name in enumerate(told)}
    if not isinstance(names, Mapping) or any(str(i) not in names for i in range(len(names))):
        return None
    found = [str(names[str(i)]).encode(errors="replace").decode() for i in range(len(names))]
    return None if found == [f"LABEL_{i}" for i in range(len(names))] else found


def _probabilities(config: Mapping[str, Any], parts: Mapping[str, Part]) -> Probabilities | None:
    """Return how image classification in transformers converts logits to probabilities.

    Returns:
        "sigmoid" if there is a single class, or if several classes may apply at once. Otherwise None, for the default.
    """
    kind = config.get("problem_type")
    is_one = "head/kernel" in parts and parts["head/kernel"].shape[-1] == 1 and kind != "regression"
    return "sigmoid" if is_one or kind == "multi_label_classification" else None
