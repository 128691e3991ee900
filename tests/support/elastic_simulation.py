"""A server of one queue on a clock of its own: what elastic capacity decides for given arrivals, and what comes of it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vmoe_serve.elastic import Elastic, Level, Seen, State, decide, images_per_call, served


@dataclass
class Trace:
    """What happened.

    Attributes:
        events: the decisions and the calls in their order: ("decide", Seen, state after it) and
            ("served", (level, images, seconds), state after it).
        waits: seconds from arrival to answer, of each image.
        levels: that each image was served at.
    """

    events: list[tuple[str, object, State]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    @property
    def decisions(self) -> list[tuple[float, int]]:
        """Time and level of each decision."""
        return [(seen.time, state.level) for _, seen, state in self.events if isinstance(seen, Seen)]

    @property
    def changes(self) -> list[tuple[float, int, int]]:
        """Time of each change of the level, the old one and the new one; that of the start is not one."""
        found = self.decisions
        return [(after[0], before[1], after[1]) for before, after in pairwise(found) if before[1] != after[1]]

    def in_time(self, target: float) -> float:
        """Share of the images that were answered in time."""
        return sum(wait <= target for wait in self.waits) / len(self.waits)


def simulate(
    plan: Elastic,
    arrivals: Sequence[float],
    seconds: Callable[[float, int, int], float] | None = None,
    fixed: int | None = None,
) -> Trace:
    """Serves images that arrive at these times, one call after another, as soon as there is one.

    Args:
        plan: what the decisions keep to.
        arrivals: seconds, rising.
        seconds: of a call at a time, a level and a number of images; default: what the plan says.
        fixed: a level that everything is served at, whatever is decided.
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


def evenly(rates: Sequence[tuple[float, float]]) -> list[float]:
    """Arrivals of so many images a second for so many seconds, one after another."""
    arrivals, time, end = [], 0.0, 0.0
    for rate, seconds in rates:
        end += seconds
        while time < end:
            arrivals.append(time)
            time += 1 / rate
    return arrivals


def at_random(rates: Sequence[tuple[float, float]], seed: int) -> list[float]:
    """The same as a Poisson process."""
    source, arrivals, time, end = random.Random(seed), [], 0.0, 0.0
    for rate, seconds in rates:
        time, end = end, end + seconds
        while True:
            time += source.expovariate(rate)
            if time >= end:
                break
            arrivals.append(time)
    return arrivals


def capacity_of(plan: Elastic, level: int) -> float:
    """Images a second that a level can serve."""
    at, images = plan.levels[level], images_per_call(plan, plan.start(), level)
    return images / (at.fixed + at.each * images)


def random_plan(source: random.Random) -> Elastic:
    """One to eight levels, from microseconds to a second an image, with a target that a call can keep to."""
    each, levels = 10 ** source.uniform(-5, -1), []
    fixed = each * source.choice([0.0, 0.5, 5.0, 20.0])
    for _ in range(source.randint(1, 8)):
        levels.append(Level(f"level {len(levels)}", fixed, each))
        each *= source.uniform(1.05, 1.6)
    multiple = source.choice([1, 1, 1, 4, 16])
    most = multiple * source.choice([1, 2, 8, 32])
    least = levels[-1].fixed + levels[-1].each * multiple
    return Elastic(tuple(levels), least * source.uniform(3, 50), most, multiple)
