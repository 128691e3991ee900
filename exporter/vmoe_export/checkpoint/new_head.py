"""A checkpoint with a new head, such as one that `vmoe fewshot` fitted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_export.checkpoint.base import Array, Checkpoint, TensorInfo
from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.checkpoint.safetensors_file import SafetensorsCheckpoint
from vmoe_export.errors import CheckpointError, OptionError
from vmoe_measure.head_inputs import FITTED_TO
from vmoe_measure.npz_file import opened_npz
from vmoe_runtime.bundle.strict_json import parse_json
from vmoe_runtime.errors import ImageError, shown

_EXPECTED = (
    "expected a .safetensors or npz file with 'kernel' [D, classes] and 'bias' [classes], or 'head/kernel' and 'head/bias'"
)
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_NAMES = "class_names"
_PREFIXES = ("head/", "head.", "")  # "head." is the prefix in a state dict
_KNOWN = (_NAMES, FITTED_TO, *(f"{prefix}{name}" for prefix in _PREFIXES for name in ("kernel", "bias")))
_FLOAT32 = np.dtype(np.float32)
_ALWAYS_BYTES = 64 << 20
_MOST_UNPACKED = 100
"""Largest ratio of unpacked to stored size beyond `_ALWAYS_BYTES`. Trained weights hardly compress, so a real head is far
below it."""


class NewHead(Checkpoint):
    """A checkpoint whose head comes from a separate file. The original checkpoint may have another head or none.

    A small file may unpack to more data than fits in memory. Therefore, the constructor reads only the shapes that the file
    declares for the head. `read` checks that these shapes fit the model, and then loads the arrays.

    Args:
        trunk: the checkpoint that gets the new head. The caller closes it.
        path: a .safetensors file, or an npz file under any other name. It holds `kernel` [D, classes] and `bias` [classes],
            or `head/kernel` and `head/bias`, in float16, bfloat16 (safetensors only), float32 or float64. An npz file may
            also hold `class_names` [classes] and, from `vmoe fewshot`, a description of the features that the head was
            fitted to.

    Attributes:
        class_names: class names from the file, or None if it has none.
        fitted_to: the file's description of the features that the head was fitted to (see `vmoe_measure.head_inputs`), or
            None if it has none.

    Raises:
        OptionError: the file can't be read, or declares no head in this format.
    """

    def __init__(self, trunk: Checkpoint, path: Path) -> None:
        with _of_head(path):
            stated = _stated_arrays(path)
            prefix = next((each for each in _PREFIXES if f"{each}kernel" in stated), "")
            kernel, bias = (_checked_type(f"{prefix}{name}", stated) for name in ("kernel", "bias"))
            if len(kernel.shape) != 2 or bias.shape != kernel.shape[1:] or not math.prod(kernel.shape):
                raise OptionError(f"{prefix}kernel has shape {kernel.shape} and {prefix}bias {bias.shape}; {_EXPECTED}")
            names = stated.get(_NAMES)
            if names is not None and (names.dtype.kind != "U" or names.shape != bias.shape):
                raise OptionError(
                    f"{_NAMES} is {names.dtype}{list(names.shape)}, not one name for each of {bias.shape[0]} classes"
                )
            self.class_names = None if names is None else tuple(_arrays_of(path, [_NAMES])[_NAMES].tolist())
            self.fitted_to = _fitted_to(path) if FITTED_TO in stated else None
        self._path, self._trunk, self._prefix = path, trunk, prefix
        self._head: dict[str, Array] = {}
        head = {"head/kernel": TensorInfo(kernel.shape, _FLOAT32), "head/bias": TensorInfo(bias.shape, _FLOAT32)}
        super().__init__(trunk.path, trunk.format, [*trunk.files, path], {**trunk.info, **head})
        self.source = trunk.source

    def read(self, features: int) -> None:
        """Load the head for a model with `features` input features.

        Raises:
            OptionError: the head has a different number of input features, can't be read, or holds NaN or infinite values.
        """
        with _of_head(self._path):
            if (inputs := self.info["head/kernel"].shape[0]) != features:
                raise OptionError(f"its kernel takes {inputs} features, and the model has {features}")
            names = {f"head/{name}": f"{self._prefix}{name}" for name in ("kernel", "bias")}
            arrays = _arrays_of(self._path, list(names.values()))
            self._head = {name: _as_float32(stored, arrays[stored]) for name, stored in names.items()}

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Check that the head was fitted to the features of this model.

        If the head's file does not describe the features, the head passes.

        Args:
            inputs: the model's features, as returned by `vmoe_measure.head_inputs`.

        Raises:
            OptionError: the head was fitted to other features.
        """
        with _of_head(self._path):
            fitted = self.fitted_to or inputs
            for name in (*inputs, *fitted):
                own, theirs = (shown(each[name], 80) if name in each else "not set" for each in (fitted, inputs))
                if own != theirs:
                    what = "other weights" if name == "weights" else f"{name} {own}, but here it is {theirs}"
                    raise OptionError(f"it is fitted to the features of a model with {what}; fit a head to this one")

    def _read(self, stored_name: str) -> Array:
        if stored_name in self._head:
            return self._head[stored_name].copy()
        return self._trunk._read(self._trunk._stored_names[stored_name])


@contextmanager
def _of_head(path: Path) -> Iterator[None]:
    """Convert errors raised in the block to OptionErrors whose messages start with `--head` and the file's path."""
    try:
        yield
    except OSError as error:
        raise OptionError(f"--head {path} can't be read: {error.strerror or error}") from None
    except (CheckpointError, OptionError, ImageError) as error:
        message = str(error)
        raise OptionError(f"--head {message if message.startswith(str(path)) else f'{path}: {message}'}") from None


def _stated_arrays(path: Path) -> Mapping[str, TensorInfo]:
    """Return the declared shape and dtype of each array in a safetensors file, or of the head's arrays in an npz file.

    A safetensors file may be a whole checkpoint. The arrays' data are not read.
    """
    if path.suffix == ".safetensors":  # safetensors files are never compressed, so sizes need no check
        with SafetensorsCheckpoint(path) as checkpoint:
            return checkpoint.info
    with closing(PlainFile(path)) as file:
        most = max(_ALWAYS_BYTES, _MOST_UNPACKED * file.size)
    stated = {}
    with opened_npz(path, _EXPECTED) as archive:
        for name in _KNOWN:
            if name not in archive.files:
                continue
            member = f"{name}.npy"
            assert archive.zip is not None
            with archive.zip.open(member if member in archive.zip.namelist() else name) as header:
                is_first = np.lib.format.read_magic(header) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(header)
            if dtype.hasobject:
                raise ImageError(f"{name} is an array of Python objects, which is not loaded; {_EXPECTED}")
            if math.prod(shape) * dtype.itemsize > most:
                raise ImageError(f"{name} is {dtype}{list(shape)}, too large for a head in a file of this size")
            stated[name] = TensorInfo(shape, dtype)
    return stated


def _arrays_of(path: Path, names: Sequence[str]) -> dict[str, Array]:
    with SafetensorsCheckpoint(path) if path.suffix == ".safetensors" else opened_npz(path, _EXPECTED) as arrays:
        return {name: arrays[name] for name in names}


def _fitted_to(path: Path) -> dict[str, Any]:
    text = _arrays_of(path, [FITTED_TO])[FITTED_TO]
    try:
        fitted = parse_json(text.item().encode()) if text.shape == () and text.dtype.kind == "U" else None
    except ValueError:
        fitted = None
    if not isinstance(fitted, dict):
        raise OptionError(f"{FITTED_TO} is not a JSON object; leave it out, or fit the head again")
    return fitted


def _checked_type(name: str, stated: Mapping[str, TensorInfo]) -> TensorInfo:
    if name not in stated:
        raise OptionError(f"it has no array '{name}'; {_EXPECTED}")
    if stated[name].dtype.name not in _FLOATS:
        raise OptionError(f"{name} is {stated[name].dtype}, not one of {', '.join(_FLOATS)}")
    return stated[name]


def _as_float32(name: str, array: Array) -> Array:
    with np.errstate(over="ignore"):  # float64 values beyond the float32 range become infinite, and are refused below
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise OptionError(f"{name} holds NaN or infinite values")
    return array
