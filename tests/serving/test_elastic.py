"""Tests that simulate elastic capacity: it must stay within its bounds, settle and meet the target.

The C++ code must make the same decisions as the Python code.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from ctypes import byref
from dataclasses import dataclass, field
from typing import Any

import c_engine
import numpy as np
import pytest
from damaged_files import refusal

from vmoe_runtime.errors import ElasticError
from vmoe_serve.elastic import (
    COOLDOWN,
    HEADROOM,
    UTILIZATION_LIMIT,
    Elastic,
    Level,
    Seen,
    State,
    decide,
    fitted_level,
    images_per_call,
    load,
    served,
)

pytestmark = pytest.mark.long
TRACES = 100
"""Number of traces in each of two tests; few enough that the stored data doesn't slow down Python's garbage collector."""
SETTLED = 40
"""Time after a step of the load, in multiples of the target, after which the level must be constant."""

LEVELS = tuple(Level(f"level {index}", 0.001, 0.001 * 1.4**index) for index in range(5))
PLAN = Elastic(LEVELS, target=0.1, most_images=32)


@dataclass
class Trace:
    """The record of a simulation.

    Attributes:
        events: the decisions and the calls, in order. A decision is ("decide", Seen, state after the decision). A call is
            ("served", (level, images, seconds), state after the call).
        waits: seconds from arrival to response, for each image.
        levels: the level at which each image was served.
    """

    events: list[tuple[str, object, State]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    @property
    def decisions(self) -> list[tuple[float, int]]:
        """The time and the level of each decision."""
        return [(seen.time, state.level) for _, seen, state in self.events if isinstance(seen, Seen)]

    @property
    def changes(self) -> list[tuple[float, int, int]]:
        """The time, old level and new level of each level change. The first level does not count as a change."""
        found = self.decisions
        return [(after[0], before[1], after[1]) for before, after in itertools.pairwise(found) if before[1] != after[1]]

    def in_time(self, target: float) -> float:
        """Return the share of images that got a response within `target` seconds."""
        return sum(wait <= target for wait in self.waits) / len(self.waits)


def simulate(
    plan: Elastic,
    arrivals: Sequence[float],
    seconds: Callable[[float, int, int], float] | None = None,
    fixed: int | None = None,
) -> Trace:
    """Simulate a server to which images arrive at given times.

    The server makes one call after another, each as soon as possible.

    Args:
            plan: the plan that makes the decisions.
            arrivals: arrival times in seconds, ascending.
            seconds: a function that returns how long a call takes, given the time, the level and the number of images. By
            default, a call takes as long as the plan states.
            fixed: a level for all calls, which overrides the decisions.
    """
    took = seconds or (lambda time, level, images: plan.levels[level].fixed + plan.levels[level].each * images)
    state, trace, queue = plan.start(), Trace(), deque[float]()
    time, coming, arrived = 0.0, 0, 0
    while coming < len(arrivals) or queue:
        if not queue:
            time = max(time, arrivals[coming])
        while coming < len(arrivals) and arrivals[coming] <= time:
            queue.append(arrivals[coming])
            coming, arrived = coming + 1, arrived + 1
        seen = Seen(time, len(queue), time - queue[0], arrived)
        state, arrived = decide(plan, state, seen), 0
        trace.events.append(("decide", seen, state))
        level = state.level if fixed is None else fixed
        images = min(len(queue), images_per_call(plan, state, level))
        needed = took(time, level, images)
        time += needed
        state = served(plan, state, level, images, needed)
        trace.events.append(("served", (level, images, needed), state))
        trace.waits += [time - queue.popleft() for _ in range(images)]
        trace.levels += [level] * images
    return trace


def evenly(rates: Sequence[tuple[float, float]], pause: Callable[[float], float] = lambda rate: 1 / rate) -> list[float]:
    """Return regular arrival times for successive (rate, duration) pairs.

    Rates are in images per second, durations in seconds. Given a rate, `pause` returns the time between two arrivals.
    """
    arrivals, end = [], 0.0
    for rate, seconds in rates:
        time, end = end, end + seconds
        while (time := time + pause(rate)) < end:
            arrivals.append(time)
    return arrivals


def at_random(rates: Sequence[tuple[float, float]], seed: int) -> list[float]:
    """Return the arrival times of a Poisson process for successive (rate, duration) pairs.

    The units are the same as in `evenly`.
    """
    return evenly(rates, random.Random(seed).expovariate)


def capacity_of(plan: Elastic, level: int) -> float:
    """Return how many images per second can be served at a level."""
    at, images = plan.levels[level], images_per_call(plan, plan.start(), level)
    return images / (at.fixed + at.each * images)


def random_plan(source: random.Random) -> Elastic:
    """Return a random plan with one to eight levels and a feasible target. Each image takes at most about a second."""
    each, levels = 10 ** source.uniform(-5, -1), []
    fixed = each * source.choice([0.0, 0.5, 5.0, 20.0])
    for _ in range(source.randint(1, 8)):
        levels.append(Level(f"level {len(levels)}", fixed, each))
        each *= source.uniform(1.05, 1.6)
    multiple = source.choice([1, 1, 1, 4, 16])
    most = multiple * source.choice([1, 2, 8, 32])
    least = levels[-1].fixed + levels[-1].each * multiple
    return Elastic(tuple(levels), least * source.uniform(3, 50), most, multiple)


def uneven(plan: Elastic, seed: int) -> Trace:
    """Simulate Poisson arrivals at changing rates.

    Calls take more or less time than the plan states, and some take 20 times as long.
    """
    source = random.Random(seed)
    lowest, time = capacity_of(plan, 0), min(4 * plan.target, 200 / capacity_of(plan, 0))
    arrivals = at_random([(lowest * source.uniform(0.01, 1.3), time * source.uniform(0.2, 2)) for _ in range(8)], seed)
    slow = [source.uniform(0.5, 2) for _ in plan.levels]

    def seconds(_: float, level: int, images: int) -> float:
        at = plan.levels[level]
        stalled = 20 if source.random() < 0.01 else 1
        return (at.fixed + at.each * images) * slow[level] * source.uniform(0.9, 1.3) * stalled

    return simulate(plan, arrivals or [0.0], seconds)


def assert_in_bounds(plan: Elastic, trace: Trace) -> None:
    for kind, what, state in trace.events:
        assert 0 <= state.level < len(plan.levels)
        assert state.rate >= 0 and all(0 < scale < math.inf for scale in state.scales)
        images = images_per_call(plan, state, state.level)
        assert plan.multiple <= images <= plan.most_images and images % plan.multiple == 0
        if kind == "served":
            assert isinstance(what, tuple) and 1 <= what[1] <= plan.most_images
    for (before, _, _), (time, old, new) in itertools.pairwise(trace.changes):
        assert new < old or time - before >= COOLDOWN * plan.target, "it rose too soon after it had changed"


class CElastic:
    """The elastic decisions of the C++ code, for the plan that the levels and `options` describe."""

    def __init__(self, levels: Sequence[Level], **options: float) -> None:
        if c_engine.sdk() is None:
            pytest.skip("this installation has no C++ SDK")
        self._handle = ctypes.c_void_p()
        times = np.array([(level.fixed, level.each) for level in levels])
        given = c_engine.ElasticOptions(**options)
        c_engine.call("vmoe_elastic_create", byref(given), times.ctypes.data, len(levels), byref(self._handle))

    def decide(self, seen: Seen) -> tuple[int, int, float]:
        decision = c_engine.ElasticDecision()
        given = c_engine.ElasticSeen(seen.time, seen.waiting, seen.oldest, seen.arrived)
        c_engine.call("vmoe_elastic_decide", self._handle, byref(given), byref(decision))
        return decision.level, decision.images, decision.load

    def served(self, level: int, images: int, seconds: float) -> None:
        c_engine.call("vmoe_elastic_served", self._handle, level, images, seconds)

    def __del__(self) -> None:
        if library := c_engine.sdk():
            library.vmoe_elastic_free(self._handle)


def assert_cpp_decides_the_same(plan: Elastic, trace: Trace) -> None:
    other = CElastic(plan.levels, target=plan.target, most_images=plan.most_images, multiple=plan.multiple)
    for _, what, state in trace.events:
        if isinstance(what, Seen):
            expected = state.level, images_per_call(plan, state, state.level), load(plan, state, state.level)
            assert other.decide(what) == expected, what
        else:
            other.served(*what)  # type: ignore[misc]


@pytest.mark.sample(1)
@pytest.mark.parametrize("part", range(2))
def test_no_trace_leaves_its_bounds_and_cpp_decides_the_same(part: int) -> None:
    changes = events = 0
    for seed in range(part * TRACES, (part + 1) * TRACES):
        plan = random_plan(random.Random(seed))
        trace = uneven(plan, seed)
        assert_in_bounds(plan, trace)
        changes += len(trace.changes)
        events += len(trace.events)
        assert_cpp_decides_the_same(plan, trace)
    assert changes > TRACES
    assert events > 100 * TRACES


@pytest.mark.sample(1)
@pytest.mark.parametrize("part", range(2))
def test_after_a_step_of_the_load_the_level_settles_and_stays(part: int) -> None:
    tried = 0
    for seed in range(part, 40, 2):
        source = random.Random(seed)
        plan = random_plan(source)
        rates = [source.uniform(0.05, 0.9) * capacity_of(plan, 0) for _ in range(2)]
        step = 60 * plan.target
        if (rates[0] + rates[1]) * step > 10_000:
            continue
        tried += 1
        trace = simulate(plan, evenly([(rates[0], step), (rates[1], step)]))
        changes = [((time - step) / plan.target, new - old) for time, old, new in trace.changes if time >= step]
        assert all(after < SETTLED for after, _ in changes), (seed, changes)
        directions = [by > 0 for _, by in changes]
        assert directions == sorted(directions), (seed, "it fell after it rose", changes)
        assert trace.in_time(plan.target) > 0.97, (seed, trace.in_time(plan.target))
        # The final level must not be overloaded, unless it is the lowest one. At the next higher level, if there is one,
        # the load must be above the limit for a switch to that level.
        loads = [rates[1] / capacity_of(plan, level) for level in range(len(plan.levels))]
        _, last = trace.decisions[-1]
        assert last == 0 or loads[last] <= UTILIZATION_LIMIT * 1.05, (seed, last, loads)
        assert last + 1 == len(loads) or loads[last + 1] > HEADROOM * 0.9, (seed, last, loads)
    assert tried > 5


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_it_keeps_to_the_target_where_the_highest_level_alone_misses_it(share: float) -> None:
    arrivals = at_random([(share * capacity_of(PLAN, 0), 30.0)], seed=1)
    elastic, high = simulate(PLAN, arrivals), simulate(PLAN, arrivals, fixed=4)
    assert elastic.in_time(PLAN.target) > 0.99
    assert high.in_time(PLAN.target) < 0.1


def test_a_machine_that_is_slowed_down_is_noticed_and_its_recovery_too() -> None:
    def seconds(time: float, level: int, images: int) -> float:
        return (LEVELS[level].fixed + LEVELS[level].each * images) * (3 if 10 < time < 20 else 1)

    trace = simulate(PLAN, evenly([(0.6 * capacity_of(PLAN, 4), 40.0)]), seconds)
    at = dict(trace.decisions)
    assert {level for time, level in at.items() if time < 10} == {4}
    assert max(level for time, level in at.items() if 11 < time < 20) < 4
    assert {level for time, level in at.items() if time > 30} == {4}
    assert trace.in_time(PLAN.target) > 0.98


def test_a_call_takes_no_more_images_than_leave_time_for_the_one_after_it() -> None:
    state = PLAN.start()
    for level, at in enumerate(LEVELS):
        images = images_per_call(PLAN, state, level)
        assert (
            2 * (at.fixed + at.each * images) <= 0.75 * PLAN.target < 2 * (at.fixed + at.each * (images + 1)) or images == 32
        )
    tight = Elastic(LEVELS, 0.0001, 32, 4)
    assert images_per_call(tight, tight.start(), 0) == 4


def test_after_a_rise_a_higher_level_waits_as_long_again() -> None:
    trace, state = Trace(), PLAN.start()

    def at(time: float, rate: float = 0.0) -> int:
        nonlocal state
        seen = Seen(time, 1, 0.0, round(0.01 * rate))
        state = decide(PLAN, state, seen)
        trace.events.append(("decide", seen, state))
        return state.level

    for step in range(300):
        at(0.01 * step, 0.9 * capacity_of(PLAN, 0))
    assert state.level == 0
    rise = next(step for step in range(300, 600) if at(0.01 * step, 0.75 * capacity_of(PLAN, 1)) == 1)
    # No images arrive after this moment, so every level would be fast enough immediately. The level must still not rise
    # before the cooldown has passed.
    assert [at(0.01 * rise + later) for later in (2, 2.9, 3.1)] == [1, 1, 4]
    assert_cpp_decides_the_same(PLAN, trace)


def test_times_that_are_none_teach_nothing() -> None:
    state = PLAN.start()
    for seconds in (0.0, -1.0, math.nan, math.inf):
        assert served(PLAN, state, 2, 1, seconds) is state
    for seconds in (5e-324, 1e308):
        learned: State = state
        for _ in range(3000):
            learned = served(PLAN, learned, 2, 1, seconds)
        assert all(1e-6 <= scale <= 1e6 for scale in learned.scales)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"levels": ()}, "there must be 1 to 1024 levels, not 0"),
    ({"levels": LEVELS * 300}, "there must be 1 to 1024 levels, not 15"),
    ({"levels": LEVELS[::-1]}, "levels must go from the cheapest to the"),
    ({"levels": (LEVELS[0], LEVELS[0])}, "takes no longer than one of level 0"),
    ({"levels": (Level("x", -1.0, 1.0),)}, "the fixed time must be 0 or more seconds"),
    ({"levels": (Level("x", math.nan, 1.0),)}, "the fixed time must be 0 or more seconds"),
    ({"levels": (Level("x", 0.0, 0.0),)}, "more"),
    ({"levels": (Level("x", 0.0, math.inf),)}, "more"),
    ({"target": 0.0}, "target must be more than 0"),
    ({"target": -1.0}, "target must be more than 0"),
    ({"target": math.nan}, "target must be more than 0"),
    ({"target": 2e6}, "target must be more than 0"),
    ({"most_images": 0}, "from 1 to 65536"),
    ({"most_images": 65537}, "from 1 to 65536"),
    ({"multiple": 0}, "from 1 to 65536"),
    ({"multiple": 5}, "most_images must be a multiple of 5, not 32"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_plan_that_makes_no_sense_is_one_line_in_both(changes: dict[str, Any], message: str) -> None:
    given = {"levels": LEVELS, "target": 0.1, "most_images": 32, "multiple": 1} | changes
    with refusal(ElasticError, message):
        Elastic(**given)
    levels = given.pop("levels")
    with pytest.raises(c_engine.RefusedError) as in_c:
        CElastic(levels, **given)
    assert in_c.value.code == 1 and message in str(in_c.value)


def test_numbers_of_images_may_be_those_of_numpy() -> None:
    plan = Elastic(LEVELS, 0.1, np.int64(32), np.uint8(2))  # type: ignore[arg-type]
    assert plan == Elastic(LEVELS, 0.1, 32, 2) and type(plan.most_images) is type(plan.multiple) is int
    for wrong in (True, 32.0):
        with refusal(ElasticError, "most_images must be a whole number"):
            Elastic(LEVELS, 0.1, wrong)  # type: ignore[arg-type]


def test_cpp_refuses_what_no_queue_is() -> None:
    elastic = CElastic([Level("x", 0.001, 0.001)], target=0.1, most_images=8, multiple=1)
    wrong = [(math.nan, 1, 0.0, 1), (math.inf, 1, 0.0, 1), (1.0, 1, -1.0, 1), (1.0, 1, math.nan, 1), (1.0, -1, 0.0, 1)]
    for seen in (*wrong, (1.0, 1, 0.0, -1)):
        with pytest.raises(c_engine.RefusedError):
            elastic.decide(Seen(*seen))
    for level, images in ((1, 1), (-1, 1), (0, 0)):
        with pytest.raises(c_engine.RefusedError):
            elastic.served(level, images, 1.0)
    assert elastic.decide(Seen(1.0, 1, 0.0, 1))[:2] == (0, 8)


def test_a_level_is_fitted_to_the_times_of_calls() -> None:
    level = fitted_level("c1-k1", [(1, 0.003), (1, 0.003), (11, 0.013)])
    assert level.profile == "c1-k1"
    assert level.fixed == pytest.approx(0.002) and level.each == pytest.approx(0.001)
    assert fitted_level("x", [(4, 0.008)]) == Level("x", 0.0, 0.002)
    # The fixed part of a call's time can't be estimated in two cases: if the larger call took less time than the smaller
    # one, or if it took more time per image.
    assert fitted_level("x", [(1, 0.004), (3, 0.002)]) == Level("x", 0.0, 0.0015)
    assert fitted_level("x", [(1, 0.001), (2, 0.005)]).fixed == 0.0
    for times in ([], [(0, 1.0)], [(1, 0.0)], [(1, math.nan)]):
        with pytest.raises(ElasticError, match="x: a level needs the times of calls"):
            fitted_level("x", times)
