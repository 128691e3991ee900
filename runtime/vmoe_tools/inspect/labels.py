"""What classes and layers are called where there is little room."""

from __future__ import annotations

from collections.abc import Sequence


def class_name(index: int, class_names: Sequence[str] | None, longest: int) -> str:
    """The name of a class, or its index where names are not known; a longer one is cut to `longest` characters.

    Example:
        >>> class_name(1, ("tench", "West Highland white terrier"), 20), class_name(7, None, 20)
        ('West Highland whi...', '7')
    """
    name = str(index) if class_names is None else class_names[index]
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


def layer_name(layer: str) -> str:
    """The name of a MoE layer.

    Example:
        >>> layer_name("encoderblock_3")
        'block 3'
    """
    return layer.replace("encoderblock_", "block ")
