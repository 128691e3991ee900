"""A pytest plugin that lets `make test` run only a sample of a test's cases. `make test-all` runs all cases.

`@pytest.mark.sample(8)` keeps 8 cases of a test function and marks all other cases `slow`. The kept cases are spread evenly
over the list of cases. If a parameter value occurs in several cases but in none of the kept ones, more cases are kept until
every such value is covered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

Values = frozenset[tuple[str, int]]


@pytest.hookimpl(tryfirst=True)  # runs before pytest deselects tests according to `-m`
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for of_function in cases.values():
        marker = of_function[0].get_closest_marker("sample")
        assert marker
        kept = sampled([frozenset(item.callspec.indices.items()) for item in of_function], *marker.args)  # type: ignore[attr-defined]
        for index, item in enumerate(of_function):
            if index not in kept:
                item.add_marker("slow")


def sampled(cases: list[Values], count: int) -> set[int]:
    """Return the indices of the cases to keep.

    Usually, `count` cases are kept. If these lack some parameter values, more cases are kept.

    Args:
        cases: for each case, the set of its parameters. Each parameter is a pair of its name and the index of its value.
        count: number of cases to spread evenly over the list.
    """
    kept = {round(i * (len(cases) - 1) / max(count - 1, 1)) for i in range(min(count, len(cases)))}
    uses = Counter(value for case in cases for value in case)
    missing = {value for value, number in uses.items() if number > 1} - _values(cases[index] for index in kept)
    while missing:
        best = max(range(len(cases)), key=lambda index: len(cases[index] & missing))
        kept.add(best)
        missing -= cases[best]
    return kept


def _values(cases: Iterable[Values]) -> Values:
    return frozenset().union(*cases)
