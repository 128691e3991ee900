"""Class names of public data sets, in label order. SOURCES.txt gives their origin."""

from __future__ import annotations

from importlib.resources import files

CLASS_LISTS = ("imagenet1k", "cifar100")


def names_of(name: str) -> tuple[str, ...]:
    """Return the class names of the built-in list `name`, which is one of CLASS_LISTS.

    Examples:
        >>> names = names_of("imagenet1k")
        >>> len(names), names[0], names[999]
        (1000, 'tench', 'toilet tissue')
    """
    return tuple(files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines())
