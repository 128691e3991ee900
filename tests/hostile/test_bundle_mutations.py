"""A short form of `make hostile`: mutated bundles are refused, or answer as the good one, in Python and C++ alike."""

from __future__ import annotations

import bundle_mutations


def test_mutated_bundles() -> None:
    outcome = bundle_mutations.run(50, seed=1)
    assert not outcome.failures
    assert outcome.verdicts["refused"] > 12
    assert outcome.verdicts["same answers"] > 3
    assert outcome.verdicts.total() == 50
