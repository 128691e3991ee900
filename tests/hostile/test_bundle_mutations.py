"""A short form of `make hostile`: mutated bundles are refused, or answer as the good one, in Python and C++ alike."""

from __future__ import annotations

import bundle_mutations


def test_mutated_bundles() -> None:
    report = bundle_mutations.run(50, seed=1)
    assert not report.failures
    assert report.endings["refused"] > 12
    assert report.endings["same answers"] > 3
    assert report.endings.total() == 50
