"""The GPU benchmark's times where there is no GPU: bytes, floors and bars, what torch does beside, and a row of each."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu import in_torch, timing
from gpu.floors import ONE_IMAGE_BAR, balanced, count_kept, kernel_bytes
from gpu.report import Report
from gpu.shapes import bar_shapes, shape_for, sweep_shapes
from host_device import HostDevice
from on_gpu import exact
from on_gpu.cases import Case, make_gates, make_inputs
from on_gpu.checks import expected_of
from on_gpu.library import KERNELS, Library
from on_gpu.shape import Shape

from vmoe_runtime.capacity import compute_slots

RATES = timing.Rates(copy=1e9, launch=1e-5)


# Floors and the bar


def test_bytes_are_those_of_the_tensors() -> None:
    case = Case(Shape(3, 50, 8, 2, 9, 12, "fp16", "fp32"), "random", 3)
    inputs = make_inputs(case)
    wanted = expected_of(case, inputs)
    kept = count_kept(wanted["slot"])
    read = wanted["src"][wanted["src"] >= 0].unique().numel() * 12 * 2
    routed = inputs["gates"].nbytes + wanted["slot"].nbytes + wanted["weight"].nbytes
    assert kept.pairs == (wanted["src"] >= 0).sum()
    assert kernel_bytes(case.shape, kept) == {
        "Route": routed + wanted["src"].nbytes,
        "Dispatch": wanted["src"].nbytes + read + wanted["buf"].nbytes,
        "RouteDispatch": routed + read + wanted["buf"].nbytes,
        "Combine": wanted["slot"].nbytes + wanted["weight"].nbytes + kept.pairs * 24 + wanted["y"].nbytes,
    }


def test_balanced_routing_keeps_what_a_balanced_router_keeps() -> None:
    for capacity in (3, 10, 25, 26, 60):
        shape = Shape(2, 100, 4, 2, capacity)
        gates = torch.zeros(2, 100, 4)
        token = torch.arange(100)
        gates[:, token, token % 4], gates[:, token, (token + 1) % 4] = 2, 1
        slot, _, _ = exact.route(gates, capacity, 2, False)
        assert count_kept(slot) == balanced(shape)


def test_capacities_are_those_of_the_product() -> None:
    for tokens, experts, choices, ratio in itertools.product((10, 197, 577), (3, 10, 32), (1, 2), (0.1, 0.3, 1.05, 1.1)):
        wanted = compute_slots(tokens * choices, experts, ratio)
        assert shape_for(1, tokens, experts, choices, ratio).capacity == wanted


def test_bar_covers_the_sizes_it_must() -> None:
    shapes = bar_shapes()
    assert len(shapes) == len(set(shapes)) == 4 * 2 * 2 * 2 * 3
    assert {(s.groups, s.tokens) for s in shapes} == {(1, 197), (8, 197), (64, 197), (64, 577)}
    assert {s.capacity for s in shapes if (s.tokens, s.experts, s.choices) == (197, 8, 2)} == {15, 52}
    assert {s.hidden for s in shapes} == {768}
    swept = sweep_shapes()
    assert len(swept) == len(set(swept))
    for name in ("tokens", "experts", "choices", "capacity", "hidden", "bpr"):
        assert len({getattr(shape, name) for shape in swept}) > 1, name
    assert max(s.tokens for s in swept) == 65_536


# Peers and timing


@pytest.mark.parametrize(("choices", "capacity", "bpr"), [(1, 20, True), (2, 20, True), (2, 70, True), (3, 11, False)])
def test_peers_do_the_same_work(choices: int, capacity: int, bpr: bool) -> None:
    source = torch.Generator().manual_seed(3)
    gates = make_gates("random", 3, 197, 8, source)
    slot, weight, src = exact.route(gates, capacity, choices, bpr)
    got = exact.route(gates, capacity, choices, bpr, fast=True)
    for ours, theirs in zip((slot, weight, src), got, strict=True):
        assert torch.equal(theirs, ours)
        assert theirs.dtype == ours.dtype
    x = torch.randn(3, 197, 16, generator=source)
    buf = exact.dispatch(x, src)
    assert torch.equal(in_torch.dispatch(in_torch.padded(x.view(-1, 16)), got[2]), buf.view(-1, 16))
    y = exact.combine(buf, slot, weight).view(-1, 16)
    out = buf.view(-1, 16)
    torch.testing.assert_close(in_torch.combine(in_torch.padded(out), got[0], got[1]), y, rtol=0, atol=1e-6)


def test_peers_wait_for_nothing() -> None:
    """What must look at values, and so wait for the card, would break torch's graph of it."""

    shape = Shape(2, 30, 4, 2, 9, 8)
    gates, out = torch.rand(2, 30, 4), torch.rand(shape.places, 8)
    whole = functools.partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)
    slot, weight, src = whole(lambda gates: exact.route(gates, 9, 2, True, fast=True))(gates)
    whole(in_torch.dispatch)(torch.rand(61, 8), src)
    whole(in_torch.combine)(in_torch.padded(out), slot, weight)


def test_a_row_says_what_was_timed(kernels: Library) -> None:
    shape = Shape(2, 50, 8, 2, 9, 16, "bf16")
    made = list(timing.measure_shape(HostDevice(), kernels, shape, RATES, 3, bar=True))
    assert [row["kernel"] for row in made] == list(KERNELS)
    for row in made:
        assert row["floor"] == pytest.approx(row["bytes"] / 1e9)
        assert row["bar"] == pytest.approx(1.3 * row["floor"] + row["launches"] * 1e-5)
        assert row["passes"] is (row["time"].median <= row["bar"])
        assert row["of_copy"] == pytest.approx(row["bytes"] / row["time"].median / 1e9)
        assert row["buffer_sets"] >= 2
        assert row["kept"].pairs <= shape.pairs
        assert row["torch"].median > 0
    assert (made[0]["shape"].gate_type, made[0]["shape"].hidden) == ("bf16", 0)
    assert (made[1]["shape"].gate_type, made[1]["shape"].hidden) == ("fp32", 16)


@pytest.mark.parametrize("type", ["fp32", "fp16"])
def test_the_bar_of_one_image_is_what_torch_takes_beside_it(kernels: Library, type: Any) -> None:
    shape = Shape(1, 197, 8, 1, 8, 16, type)
    for row in timing.measure_shape(HostDevice(), kernels, shape, RATES, 2, bar=True):
        assert row["bar"] == ONE_IMAGE_BAR * row["torch"].median
        assert row["passes"] is (row["time"].median <= row["bar"])


def test_one_image_without_torch_s_time_is_over_its_bar(
    kernels: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "route", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
    row = next(timing.measure_shape(HostDevice(), kernels, Shape(1, 197, 8, 1, 8, 16), RATES, 2, bar=True))
    assert (row["bar"], row["passes"]) == (None, False)
    report = Report(tmp_path / "report.md")
    report.row(row)
    (sentence,) = report.missed
    assert re.fullmatch(
        r"Route at 1 x 197, E 8, K 1, c 8, fp32 took [\d.]+ µs; there is no bar, as torch gave no time", sentence
    )


def test_contenders_are_interleaved_and_timed_a_call() -> None:
    called: list[str] = []

    class Clock(HostDevice):
        def milliseconds(self, work: Callable[[], None]) -> float:
            before = len(called)
            work()
            return float(len(called) - before)  # a millisecond a call

    counts = {"a": 3, "b": 40}
    contenders = {name: [functools.partial(called.append, name)] * count for name, count in counts.items()}
    times, notes = timing.time_calls(Clock(), contenders, 5)
    assert notes == []
    assert all(time.median == time.lower == time.upper == pytest.approx(1e-3) for time in times.values())
    turns = [name for name, _ in itertools.groupby(called)]
    assert 2 * 8 - 4 <= len(turns) <= 2 * 9
    assert called.count("a") == 18 * 9  # at least 16 calls a graph; once to warm up, 3 rounds, 5 that are timed


def test_what_torch_can_t_do_is_a_note(kernels: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no room here\nsecond line")

    monkeypatch.setattr(exact, "route", refuse)
    for name in ("dispatch", "combine"):
        monkeypatch.setattr(in_torch, name, refuse)
    shape = Shape(1, 20, 4, 1, 5, 8)
    made = list(timing.measure_shape(HostDevice(), kernels, shape, RATES, 1, bar=False))
    assert [row["notes"] for row in made] == [
        [f"{row['kernel']} at {row['shape']}: torch: RuntimeError: no room here"] for row in made
    ]
    assert all((row["torch"], row["bar"], row["passes"]) == (None, None, None) for row in made)
