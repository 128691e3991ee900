"""A short form of `make hostile`: Python and C++ either refuse a mutated bundle or return the good bundle's answers."""

from __future__ import annotations

import bundle_mutations
import pytest


@pytest.mark.slow
def test_mutated_bundles() -> None:
    report = bundle_mutations.run(50, seed=1)
    assert not report.failures
    assert report.endings["refused"] > 12
    assert report.endings["same answers"] > 3
    assert report.endings.total() == 50
