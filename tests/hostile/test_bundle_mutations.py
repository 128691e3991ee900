"""A short form of `make hostile` for bundles.

For a mutated bundle, Python and C++ must either refuse it or return the same results as for the good bundle.
"""

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
