"""Whether chunks make up an array, in a time that grows with their number only."""

from __future__ import annotations

import numpy as np

Box = tuple[tuple[int, int], ...]

_MAX_CUT_AXES = 4  # no parameter of a V-MoE has more axes


def covers(shape: tuple[int, ...], boxes: list[Box]) -> bool:
    """Whether every element of an array lies in exactly one box.

    Boxes are (start, stop) per dimension. How often an element is covered is the sum of the signed corners of boxes before
    it. So each is covered once exactly when those corners, where boxes that lie side by side cancel, are the corners of the
    array. Nothing is compared with everything.
    """
    if not all(
        len(box) == len(shape)
        and all(0 <= start <= stop <= extent for (start, stop), extent in zip(box, shape, strict=True))
        for box in boxes
    ):
        return False
    cut = [axis for axis, extent in enumerate(shape) if any(box[axis] != (0, extent) for box in boxes)]
    if len(cut) > _MAX_CUT_AXES:
        return False
    if any(extent == 0 for axis, extent in enumerate(shape) if axis not in cut):
        return True
    bounds = np.array([[box[axis] for axis in cut] for box in boxes], np.int64).reshape(len(boxes), len(cut), 2)
    whole = np.array([[(0, shape[axis]) for axis in cut]], np.int64).reshape(1, len(cut), 2)
    # Each bound by its rank on its axis, so that a corner is one number.
    keys = np.zeros((len(boxes) + 1, 1), np.int64)
    signs = np.ones((len(boxes) + 1, 1), np.int64)
    signs[-1] = -1
    for axis_bounds in np.moveaxis(np.concatenate([bounds, whole]), 1, 0):
        values, ranks = np.unique(axis_bounds, return_inverse=True)
        keys = (keys[:, :, None] * len(values) + ranks.reshape(-1, 1, 2)).reshape(len(keys), -1)
        signs = (signs[:, :, None] * np.array([1, -1])).reshape(len(signs), -1)
    corners, where = np.unique(keys, return_inverse=True)
    count = np.zeros(len(corners), np.int64)
    np.add.at(count, where.reshape(-1), signs.reshape(-1))
    return not count.any()
