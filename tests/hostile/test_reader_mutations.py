"""Check that randomly damaged checkpoints are refused.

There are two exceptions: the checkpoint still gives the same tensors, or the damage is in bits that no checksum protects.
"""

from __future__ import annotations

from reader_mutations import KINDS, run


def test_damage_at_random_is_noticed() -> None:
    report = run(cases=200, seed=1)
    assert report.failures == []
    # For every kind of file, some of the damage was detected.
    for kind in KINDS:
        assert report.endings[f"{kind}: refused"] > 6
    assert all("raw bits" not in ending for ending in report.endings if ending.startswith(("torch:", "torch,")))
