"""Define rotary positions by the row and column indices of patches."""

from __future__ import annotations

import numpy as np

from vmoe_export.families.translation import Translation


def rotate_by_index(
    model: Translation, front: int, *, reference: int, offset: float = 0.0, columns_first: bool = False
) -> None:
    """Define rotary positions by the row and column index of each patch.

    Args:
        model: the model, after `tokens` and before `blocks`.
        front: number of tokens before the patches.
        reference: the length that the coordinates span along each side of the image, regardless of the number of patches.
        offset: number added to each index before scaling.
        columns_first: whether the column's angles come before the row's angles.
    """
    sides = [(np.arange(side) + offset) * reference / side for side in model.image_grid()]
    coordinates = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
    count = model.width // model.heads // 4
    frequencies = 10000.0 ** (-np.arange(count) / count)
    model.rotary(coordinates[:, ::-1] if columns_first else coordinates, frequencies, front=front, has_halves=False)
