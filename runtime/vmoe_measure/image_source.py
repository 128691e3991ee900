"""Sources of the images for a comparison or measurement: an npz file, a folder of pictures, or a fixed random seed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vmoe_measure.comparison import smooth_images
from vmoe_measure.image_labels import class_index, read_labels, unambiguous
from vmoe_measure.npz_file import opened_npz
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.errors import ImageError, shown
from vmoe_runtime.images import to_batch
from vmoe_runtime.routing import Array

_SEED = 0
_EXPECTED = "expected is 'images', uint8 or float32 [N,H,W,C], or [N,H,W] for one channel"
PICTURE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageSource:
    """Images, and their classes if the classes are known.

    Attributes:
        images: uint8 or float32 [N,H,W,C] in the model's image size; or the paths of N picture files, which are read batch
            by batch.
        labels: i64[N], the class index of each image; None if the classes are unknown.
        note: a sentence that says why there are no labels, or that some pictures are left out. None if neither applies.
        of_sizes: maps (height, width, channels) to the images in that size, for models with another image size.
    """

    images: Array | tuple[Path, ...]
    labels: Array | None = None
    note: str | None = None
    of_sizes: Mapping[tuple[int, int, int], Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def chosen(self, indices: Array) -> ImageSource:
        """Return a source with only the images at `indices`, i64[M], in the order of `indices`."""
        images = self.images[indices] if isinstance(self.images, np.ndarray) else tuple(self.images[i] for i in indices)
        return ImageSource(images, None if self.labels is None else self.labels[indices])

    def first_batch(self, size: int, spec: InputSpec) -> Array:
        """Return the first `size` images as an input of the graph, spec.dtype[size,H,W,C].

        Raises:
            ImageError: there are fewer than `size` images, they don't fit the model, or a file can't be read.
        """
        if len(self) < size:
            raise ImageError(f"a batch needs {size} image{'' if size == 1 else 's'}, and --images has {len(self)}")
        return self.batch(0, size, spec)

    def batch(self, start: int, size: int, spec: InputSpec) -> Array:
        """Return `size` images, beginning with the image at index `start`, as an input of the graph: spec.dtype[size,H,W,C].

        Raises:
            ImageError: the images don't fit the model, or a file can't be read.
        """
        return to_batch(self.of_sizes.get(spec.size, self.images)[start : start + size], spec)

    def whole_batches(self, size: int, spec: InputSpec) -> Iterator[tuple[Array, Array | None]]:
        """Yield each full batch with its labels: (spec.dtype[size,H,W,C], i64[size] or None).

        Images at the end that don't fill a batch are skipped.

        Raises:
            ImageError: the images don't fit the model, or a file can't be read.
        """
        for start in range(0, len(self) - size + 1, size):
            labels = None if self.labels is None else self.labels[start : start + size]
            yield self.batch(start, size, spec), labels


def open_images(
    path: Path, class_names: tuple[str, ...] | None, num_classes: int | None, labels: Path | None = None
) -> ImageSource:
    """Open the user's images.

    Args:
        path: one of these:

            - an npz file with `images` (uint8 or float32 [N,H,W,C], or [N,H,W] for one channel) and optionally `labels`
              (integers [N])
            - a folder of pictures. It may have a subfolder for each class. The subfolder's name is the name or index of
              the class.
        class_names: names of the model's classes; None if the classes have only indices.
        num_classes: number of the model's classes, or None if it outputs no logits.
        labels: a CSV file with the classes of the folder's pictures, used instead of subfolders; see `read_labels`.

    Raises:
        ImageError: `path` has no images in one of these formats, the labels can't be read or don't fit the images, or a
            label is out of range.
    """
    if labels is not None:
        if not path.is_dir():
            raise ImageError(f"{labels} labels the pictures of a folder, and {path} is none")
        source = _labelled(path, read_labels(labels, class_names, path))
    else:
        source = _from_folder(path, class_names, num_classes) if path.is_dir() else _from_npz(path)
    if source.labels is None:
        return source
    if num_classes is None:
        return ImageSource(source.images, note="the bundle outputs no logits, so there is no top-1")
    if len(source) and not 0 <= source.labels.min() <= source.labels.max() < num_classes:
        raise ImageError(
            f"{labels or path}: labels go from {source.labels.min()} to {source.labels.max()}, "
            f"and the model has classes 0 to {num_classes - 1}"
        )
    return source


def synthetic_images(count: int, spec: InputSpec, *others: InputSpec) -> ImageSource:
    """Return smooth random images. Every call returns the same images.

    If every pixel were noise, the router could hardly distinguish the tokens, and would send them all to the same experts.
    The patches of a smooth image differ from each other, like those of a photograph.

    Returns:
        A source of images uint8[count, H, W, C] without labels. For each image size in `others`, `of_sizes` contains
        `count` images of that size.
    """
    of_sizes = {other.size: smooth_images(count, *other.size) for other in others if other.size != spec.size}
    return ImageSource(smooth_images(count, *spec.size), of_sizes=of_sizes)


def find_files(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], dict[str, list[Path]]]:
    """Find the files in a folder whose names end with one of `suffixes`, in upper or lower case.

    Hidden files and folders are skipped, because operating systems store thumbnails and folder settings in them. Links are
    followed.

    Args:
        folder: the folder to search.
        suffixes: suffixes in lower case, with their dots.

    Returns:
        Two results:

        - A sorted list of the files directly in the folder.
        - A dictionary that maps the name of each subfolder to a sorted list of the files in it and below it. Subfolders
          without such files are omitted.

    Raises:
        ImageError: a folder can't be read, or a link leads nowhere or to a folder that contains the link.
    """
    loose: list[Path] = []
    below: dict[str, list[Path]] = {}
    try:
        for where, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
            paths = [Path(where, name) for name in (*folders, *files) if not name.startswith(".")]
            folders[:] = [path.name for path in paths if _is_folder(path)]
            inside = Path(where).relative_to(folder).parts
            found = below.setdefault(inside[0], []) if inside else loose
            found += (path for path in paths if _is_one_of(path, suffixes))
    except OSError as error:
        raise ImageError(f"{error.filename}: {error.strerror}") from None
    return sorted(loose), {name: sorted(files) for name, files in sorted(below.items()) if files}


def pictures_of(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """Return the pictures in a folder. The result has the same format as that of `find_files`.

    Raises:
        ImageError: there are no pictures, or a folder can't be read.
    """
    loose, below = find_files(folder, PICTURE_SUFFIXES)
    if not loose and not below:
        raise ImageError(f"{folder} has no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    return loose, below


def _from_npz(path: Path) -> ImageSource:
    with opened_npz(path, _EXPECTED) as archive:
        if "images" not in archive.files:
            raise ImageError(f"{path} has no array 'images', only {shown(archive.files, 100)}; {_EXPECTED}")
        arrays = {name: archive[name] for name in ("images", "labels") if name in archive.files}
    images = arrays["images"]
    if images.ndim not in (3, 4) or images.dtype not in (np.uint8, np.float32):
        bfloat16 = ", which is how numpy stores bfloat16" if images.dtype == "V2" else ""
        raise ImageError(f"{path}: 'images' is {images.dtype}{list(images.shape)}{bfloat16}; {_EXPECTED}")
    if "labels" not in arrays:
        return ImageSource(images)
    labels = arrays["labels"]
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ImageError(
            f"{path}: 'labels' is {labels.dtype}{list(labels.shape)}, and {len(images)} images need {len(images)} integers"
        )
    return ImageSource(images, labels.astype(np.int64))


def _from_folder(folder: Path, class_names: tuple[str, ...] | None, num_classes: int | None) -> ImageSource:
    loose, by_class = pictures_of(folder)
    paths = loose + [path for pictures in by_class.values() for path in pictures]
    # Shuffle the pictures. Otherwise, all pictures in a batch would belong to one class, and would use only a few experts.
    order = np.random.default_rng(_SEED).permutation(len(paths))
    shuffled = tuple(paths[index] for index in order)
    if loose:
        return ImageSource(shuffled, note="some pictures are in no subfolder, so there is no top-1" if by_class else None)
    index_of = unambiguous(class_names or ())
    labels: list[int] = []
    for name, pictures in by_class.items():
        index = class_index(name, index_of)
        if index is None or (num_classes is not None and index >= num_classes):
            no_class = f"subfolder '{name}' is not one class of the bundle"
            why = "the bundle has no class names" if class_names is None else no_class
            names = "indices" if class_names is None else "names or indices"
            how = f"labels are subfolders with the {names} of classes (0, 1, ...), or a CSV file (--labels)"
            return ImageSource(shuffled, note=f"{why}, so there is no top-1; {how}")
        labels += [index] * len(pictures)
    return ImageSource(shuffled, np.array(labels, np.int64)[order])


def _labelled(folder: Path, labels: Mapping[str, int]) -> ImageSource:
    """Return the pictures that a CSV file lists, together with their labels. The order is that of the CSV file."""
    paths = tuple(folder / name for name in labels)
    if missing := next((path for path in paths if not path.is_file()), None):
        raise ImageError(f"the labels name {missing}, which is no file; write paths as they are inside {folder}")
    loose, below = find_files(folder, PICTURE_SUFFIXES)
    others = len({*loose, *(path for pictures in below.values() for path in pictures)} - set(paths))
    note = f"{others:,} of the pictures in {folder} have no label and are left out" if others else None
    return ImageSource(paths, np.array(list(labels.values()), np.int64), note)


def _refuse(error: OSError) -> None:
    raise error


def _is_folder(path: Path) -> bool:
    if path.is_symlink() and path.parent.resolve().is_relative_to(os.path.realpath(path)):
        raise ImageError(f"{path} is a link to a folder that it is in: remove it")
    return path.is_dir()


def _is_one_of(path: Path, suffixes: Collection[str]) -> bool:
    if path.is_symlink() and not path.exists():
        raise ImageError(f"{path} is a link that leads nowhere: remove it")
    return path.suffix.lower() in suffixes and path.is_file()
