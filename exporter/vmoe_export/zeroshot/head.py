"""Build a classifier from class names. Its kernel holds normalized text embeddings, scaled as in training."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.checkpoint.base import Array
from vmoe_export.errors import CheckpointError, OptionError
from vmoe_export.export import ExportResult, export_bundle
from vmoe_export.zeroshot.text_tower import installed, open_text_tower
from vmoe_runtime.addresses import is_address

DEFAULT_TEMPLATES = ("a photo of a {}.",)
_PLACE = "{}"
_ROUNDING = 1e-7  # embeddings of equal tokens may have a cosine this far from 1, depending on the batch size


def export_zeroshot(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    **arguments: Any,
) -> ExportResult:
    """Export a CLIP, SigLIP or TIPSv2 to a bundle that classifies images by class names.

    The label embedding of a class is the mean of the normalized embeddings of its texts, normalized again. A logit is the
    product of the normalized image embedding and a label embedding, times the model's scale, plus the model's bias.

    Args:
        checkpoint: a local transformers or open_clip folder with both towers and the tokenizer, or the model file in such a
            folder. With an `architecture` of open_clip, a single file is enough.
        path: the bundle's folder, such as `pets.vmoe`.
        class_names: names of the classes.
        templates: texts with a {} for the class name.
        arguments: arguments of `export_bundle`, such as `precision`, except head, output, normalize and probabilities.

    Raises:
        VmoeError: the export failed, and nothing was written.
    """
    with zeroshot_head(checkpoint, class_names, templates, arguments.get("architecture")) as options:
        return export_bundle(checkpoint, path, **{**arguments, **options})


@contextmanager
def zeroshot_head(
    checkpoint: str | os.PathLike[str],
    class_names: Sequence[str],
    templates: Sequence[str],
    architecture: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the ExportOptions fields of a zero-shot export. The head is a temporary file.

    The file is deleted when the `with` block ends.

    Args:
        checkpoint, class_names, templates: as for `export_zeroshot`.
        architecture: as for `open_text_tower`.

    Raises:
        CheckpointError, ConfigError: the model has no supported text tower, or its tokenizer does not fit the model.
        OptionError: there are no class names or no templates, the library is not installed, or two class names have the
            same embedding.
    """
    _check_texts(class_names, templates)
    if is_address(os.fspath(checkpoint)):
        raise OptionError(f"{checkpoint} is an address; vmoe zeroshot needs the model's folder on this machine")
    if not Path(checkpoint).exists():
        raise CheckpointError(f"{checkpoint} is not there")
    tower = open_text_tower(Path(checkpoint), architecture)
    texts = [template.replace(_PLACE, name) for name in class_names for template in templates]
    by_class = _normalized(tower.encode(texts)).reshape(len(class_names), len(templates), -1)
    labels = _normalized(by_class.mean(axis=1))
    _check_apart(class_names, labels)
    with tempfile.TemporaryDirectory(prefix="vmoe-zeroshot-") as folder:
        head = Path(folder, "labels.npz")
        np.savez(head, kernel=(labels.T * tower.scale).astype(np.float32), bias=np.full(len(labels), tower.bias, np.float32))
        yield {
            "head": head,
            "class_names": list(class_names),
            "normalize": True,
            "probabilities": tower.probabilities,
        }


def openai_templates() -> tuple[str, ...]:
    """Return the templates with which OpenAI evaluated CLIP on ImageNet, as listed in the installed open_clip.

    Raises:
        OptionError: open_clip is not installed.
    """
    return tuple(make(_PLACE) for make in installed("open_clip").OPENAI_IMAGENET_TEMPLATES)


def _check_texts(class_names: Sequence[str], templates: Sequence[str]) -> None:
    if not class_names or not templates:
        raise OptionError(f"there are no {'templates' if class_names else 'class names'}")
    if (empty := next((i for i, name in enumerate(class_names, 1) if not name.strip()), None)) is not None:
        raise OptionError(f"class name {empty} of {len(class_names)} is empty")
    if wrong := next((template for template in templates if template.count(_PLACE) != 1), None):
        raise OptionError(f"--template {wrong!r:.60} must have one {_PLACE}, where the name of the class goes")


def _check_apart(class_names: Sequence[str], labels: Array) -> None:
    """Raise OptionError if different class names have the same embedding.

    This happens if the names differ only in case, or only in the text beyond the length limit.
    """
    for index, label in enumerate(labels):
        for other in (index + 1 + np.flatnonzero(labels[index + 1 :] @ label > 1 - _ROUNDING)).tolist():
            one, two = class_names[index], class_names[other]
            if one != two:
                raise OptionError(
                    f"the text tower can't tell class names {index + 1} and {other + 1} apart: {one!r:.60} and {two!r:.60}"
                )


def _normalized(embeddings: Array) -> Array:
    """Divide rows by their norms, in float64."""
    exact = embeddings.astype(np.float64)
    norms = np.linalg.norm(exact, axis=-1, keepdims=True)
    y: Array = exact / np.maximum(norms, 1e-12)
    return y
