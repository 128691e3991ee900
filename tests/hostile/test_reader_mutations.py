"""Randomly damaged checkpoints are refused, unless they read unchanged or differ only in bits that no checksum protects."""

from __future__ import annotations

from reader_mutations import KINDS, run


def test_damage_at_random_is_noticed() -> None:
    report = run(cases=200, seed=1)
    assert report.failures == []
    # Every kind of file was damaged, with an effect.
    for kind in KINDS:
        assert report.endings[f"{kind}: refused"] > 6
    assert all("raw bits" not in ending for ending in report.endings if ending.startswith(("torch:", "torch,")))
