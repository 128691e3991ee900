"""A checkpoint with another head, such as one that `vmoe fewshot` fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from vmoe_export.checkpoint.base import Array, Checkpoint, TensorInfo
from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.errors import CheckpointError, OptionError
from vmoe_measure.npz_file import opened_npz
from vmoe_runtime.errors import ImageError

_EXPECTED = "expected are 'kernel' [D, classes] and 'bias' [classes], or 'head/kernel' and 'head/bias'"
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_NAMES = "class_names"


class NewHead(Checkpoint):
    """A checkpoint, but for its head, which comes from a file; the checkpoint may have another head or none.

    Args:
        trunk: the checkpoint. Whoever opened it closes it.
        path: a .safetensors or else an npz file of `kernel` [D, classes] and `bias` [classes], or `head/kernel` and
            `head/bias`: float16, bfloat16 (safetensors), float32 or float64. An npz file may have `class_names` [classes].

    Attributes:
        class_names: of the file; None where it has none.

    Raises:
        OptionError: the file can't be read, or holds no such head.
    """

    def __init__(self, trunk: Checkpoint, path: Path) -> None:
        try:
            arrays = _arrays_of(path)
            prefix = "head/" if "head/kernel" in arrays else ""
            kernel, bias = (_checked(f"{prefix}{name}", arrays) for name in ("kernel", "bias"))
            if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or not kernel.size:
                raise OptionError(f"{prefix}kernel has shape {kernel.shape} and {prefix}bias {bias.shape}; {_EXPECTED}")
            names = arrays.get(_NAMES)
            if names is not None and (names.dtype.kind != "U" or names.shape != bias.shape):
                raise OptionError(f"{_NAMES} is {names.dtype}{list(names.shape)}, no name for each of {len(bias)} classes")
        except OSError as error:
            raise OptionError(f"--head {path} can't be read: {error.strerror or error}") from None
        except (CheckpointError, OptionError, ImageError, SafetensorError) as error:
            sentence = str(error)
            raise OptionError(f"--head {sentence if sentence.startswith(str(path)) else f'{path}: {sentence}'}") from None
        self._trunk, self._head = trunk, {"head/kernel": kernel, "head/bias": bias}
        self.class_names = None if names is None else tuple(names.tolist())
        head = {name: TensorInfo(array.shape, array.dtype) for name, array in self._head.items()}
        super().__init__(trunk.path, trunk.format, [*trunk.files, path], {**trunk.info, **head})
        self.source = trunk.source

    def _read(self, stored_name: str) -> Array:
        if stored_name in self._head:
            return self._head[stored_name].copy()
        return self._trunk._read(self._trunk._stored_names[stored_name])


def _arrays_of(path: Path) -> dict[str, Array]:
    PlainFile(path).close()
    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as file:
            try:
                return {name: file.get_tensor(name) for name in _known(file.keys())}
            except AttributeError:  # of numpy, such as a float8
                raise OptionError(f"it holds values of a type that numpy lacks; use one of {', '.join(_FLOATS)}") from None
    with opened_npz(path, _EXPECTED) as archive:
        return {name: archive[name] for name in _known(archive.files)}


def _known(names: list[str]) -> list[str]:
    """Those that may be of a head. The file may be a whole checkpoint, of which nothing else is read."""
    return [name for name in names if name in (_NAMES, "kernel", "bias", "head/kernel", "head/bias")]


def _checked(name: str, arrays: dict[str, Array]) -> Array:
    """An array of the head as float32."""
    if name not in arrays:
        raise OptionError(f"it has no array '{name}'; {_EXPECTED}")
    array = arrays[name]
    if array.dtype.name not in _FLOATS:
        raise OptionError(f"{name} is {array.dtype}, not one of {', '.join(_FLOATS)}")
    with np.errstate(over="ignore"):  # float64 values beyond float32 become infinite
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise OptionError(f"{name} holds NaN or infinite values")
    return array
