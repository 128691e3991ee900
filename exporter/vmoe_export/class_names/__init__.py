"""Names of the classes of public data sets, in the order of their labels; SOURCES.txt says where they come from."""

from __future__ import annotations

from importlib.resources import files

CLASS_LISTS = ("imagenet1k", "cifar100")


def names_of(name: str) -> tuple[str, ...]:
    """The names of a list of CLASS_LISTS.

    Examples:
        >>> names = names_of("imagenet1k")
        >>> len(names), names[0], names[999]
        (1000, 'tench', 'toilet tissue')
    """
    return tuple(files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines())
