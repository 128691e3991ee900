"""Randomly damaged checkpoints are refused, unless they still give the same tensors or the damage can't be detected.

Damage can't be detected in bits that no checksum protects.
"""

from __future__ import annotations

from reader_mutations import KINDS, run


def test_damage_at_random_is_noticed() -> None:
    report = run(cases=200, seed=1)
    assert report.failures == []
    # Files of every kind were damaged in ways that are noticed.
    for kind in KINDS:
        assert report.endings[f"{kind}: refused"] > 6
    assert all("raw bits" not in ending for ending in report.endings if ending.startswith(("torch:", "torch,")))
