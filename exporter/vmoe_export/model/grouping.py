"""Routing groups: how many tokens compete for the same slots, and which batch sizes are possible."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from vmoe_export.errors import OptionError

_MAX_BATCH_MULTIPLE = 4096  # in images; each export validates its graphs with a batch of `batch_multiple` images


@dataclass(frozen=True)
class Grouping:
    """How a batch is divided into routing groups.

    Attributes:
        name: the value of `--group`: "image", "batch", a number of images, or "tokens:S".
        tokens: S, the number of tokens per group.
        batch_multiple: a batch holds only whole groups, so its number of images must be a multiple of this number.
    """

    name: str
    tokens: int
    batch_multiple: int


def parse_group(text: str, tokens_per_image: int, batch_size: int | None, members: int = 1) -> Grouping:
    """Parse the value of `--group`.

    Args:
        text: "image", "batch", a number of images, or "tokens:S".
        tokens_per_image: T, the number of tokens of an image.
        batch_size: number of images per batch; required if the text is "batch", otherwise optional.
        members: members of an ensemble (E3), 1 for other models. Each member has its own tokens, and S counts the tokens of
            all members.

    Raises:
        OptionError: the text has none of these forms, the batch size is missing, or a batch does not hold whole groups.

    Examples:
        >>> parse_group("tokens:20", 50, None)
        Grouping(name='tokens:20', tokens=20, batch_multiple=2)
    """
    if batch_size is not None and batch_size < 1:
        raise OptionError(f"the batch must be at least 1 image, not {batch_size}")
    tokens_per_image *= members
    if text == "batch":
        if batch_size is None:
            raise OptionError("group 'batch' needs the number of images per batch: --batch-size N")
        return _checked(Grouping(text, batch_size * tokens_per_image, batch_size))
    match = re.fullmatch(r"(tokens:)?([1-9][0-9]{0,8})", "1" if text == "image" else text)
    if not match:
        raise OptionError(f"group '{text}' is not image, batch, a number of images or tokens:S")
    count = int(match[2])
    if match[1]:
        if count % members:
            raise OptionError(f"group '{text}' separates the {members} members of a token; S must be a multiple of them")
        grouping = Grouping(text, count, count // math.gcd(count, tokens_per_image))
    else:
        grouping = Grouping(text, count * tokens_per_image, count)
    if batch_size is not None and batch_size % grouping.batch_multiple:
        raise OptionError(
            f"a batch of {batch_size} images can't be cut into groups of '{text}', "
            f"which need a multiple of {grouping.batch_multiple}"
        )
    return _checked(grouping)


def _checked(grouping: Grouping) -> Grouping:
    if grouping.batch_multiple > _MAX_BATCH_MULTIPLE:
        raise OptionError(
            f"group '{grouping.name}' needs batches in multiples of {grouping.batch_multiple} images, "
            f"which is more than {_MAX_BATCH_MULTIPLE}"
        )
    return grouping
