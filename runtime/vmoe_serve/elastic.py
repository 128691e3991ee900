"""Elastic capacity, which chooses the setting of the next call so that answers meet a latency target.

`docs/elastic.md` derives the rules. They use only double arithmetic, so that the C++ SDK makes the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vmoe_runtime.errors import ElasticError, shown
from vmoe_runtime.settings import as_whole

SAFETY_MARGIN = 0.75
"""Share of the target that predicted times may use; the rest is for time that the predictions do not include."""
UTILIZATION_LIMIT = 0.95
"""Load above which a lower level replaces the current one."""
HEADROOM = 0.8
"""Load up to which a higher level is affordable."""
MEMORY = 5.0
"""Time over which arrivals are averaged, in targets."""
COOLDOWN = 10.0
"""Time for which a higher level must be affordable before it replaces the current one, in targets."""
_LEARNED = 1 / 8
_DRIFT = 1 / 256
_LEAST_SCALE, _MOST_SCALE = 1e-6, 1e6
_MOST_LEVELS = 1024
_MOST_IMAGES = 65536
_LONGEST_SECONDS = 1e6


@dataclass(frozen=True)
class Level:
    """A setting, and how long its calls take. A call takes `fixed + each * images` seconds.

    Attributes:
        profile: name of the setting.
        fixed: the part of the call time that doesn't depend on the number of images, in seconds; 0 or more.
        each: seconds per image; more than 0.
    """

    profile: str
    fixed: float
    each: float


@dataclass(frozen=True)
class Elastic:
    """The levels to choose from, and the limits of a choice.

    Attributes:
        levels: the levels, the cheapest first.
        target: maximum time from a request's arrival to its answer, in seconds.
        most_images: maximum number of images per call, a multiple of `multiple`.
        multiple: a whole number; the number of images per call must be a multiple of this number.

    Raises:
        ElasticError: on construction, if a value is out of range or the levels are out of order.
    """

    levels: tuple[Level, ...]
    target: float
    most_images: int
    multiple: int = 1

    def __post_init__(self) -> None:
        if not 1 <= len(self.levels) <= _MOST_LEVELS:
            raise ElasticError(f"there must be 1 to {_MOST_LEVELS} levels, not {len(self.levels)}")
        if not (_is_number(self.target) and 0 < self.target <= _LONGEST_SECONDS):
            raise ElasticError(
                f"target must be more than 0 and at most {_LONGEST_SECONDS:.0f} seconds, not {shown(self.target)}"
            )
        for name in ("multiple", "most_images"):
            images = as_whole(getattr(self, name))
            if images is None or not 1 <= images <= _MOST_IMAGES:
                value = shown(getattr(self, name))
                raise ElasticError(f"{name} must be a whole number from 1 to {_MOST_IMAGES}, not {value}")
            object.__setattr__(self, name, images)
        if self.most_images % self.multiple:
            raise ElasticError(f"most_images must be a multiple of {self.multiple}, not {self.most_images}")
        for level in self.levels:
            if not (_is_number(level.fixed) and 0 <= level.fixed <= _LONGEST_SECONDS):
                raise ElasticError(f"{level.profile}: the fixed time must be 0 or more seconds, not {shown(level.fixed)}")
            if not (_is_number(level.each) and 0 < level.each <= _LONGEST_SECONDS):
                raise ElasticError(
                    f"{level.profile}: the time per image must be more than 0 seconds, not {shown(level.each)}"
                )
        times = [level.fixed + level.each * self.most_images for level in self.levels]
        for index in range(1, len(times)):
            if times[index] <= times[index - 1]:
                more, cheaper = self.levels[index].profile, self.levels[index - 1].profile
                raise ElasticError(
                    "levels must go from the cheapest to the most expensive, and a full call of "
                    f"{more} takes no longer than one of {cheaper}"
                )

    def start(self, time: float = 0.0) -> State:
        """Return the state before the first decision: the highest level, and no load.

        Args:
            time: the current time on a monotonic clock, in seconds.
        """
        top = len(self.levels) - 1
        return State(top, (1.0,) * len(self.levels), 0.0, 0.0, time - self.target, time, None)


class State(NamedTuple):
    """The state between decisions.

    Attributes:
        level: index of the level for the next call.
        scales: for each level, its measured call time divided by its predicted call time; 1 at first.
        rate: average number of images that arrive per second.
        arrived: number of images that have arrived since `time`.
        began: the start time minus `Elastic.target`. So `rate` begins as if no image had arrived during a time of `target`
            before the start.
        time: time of the last decision; not updated if the clock has not advanced.
        affordable_since: time since which a higher level has been affordable, as `decide` defines it; None if no higher
            level is affordable.
    """

    level: int
    scales: tuple[float, ...]
    rate: float
    arrived: float
    began: float
    time: float
    affordable_since: float | None


class Seen(NamedTuple):
    """The load when a call is about to start.

    Attributes:
        time: the current time in seconds, on the clock that `Elastic.start` uses.
        waiting: number of images in the queue.
        oldest: how long the first image in the queue has waited, in seconds.
        arrived: number of images that have arrived since the last decision.
    """

    time: float
    waiting: int
    oldest: float
    arrived: int


def decide(plan: Elastic, state: State, seen: Seen) -> State:
    """Return the state for the next call, which runs at the state's `level` with up to `images_per_call` images.

    If the queue would not be served in time at the current level, or its load is above UTILIZATION_LIMIT, the level goes
    down at once, as far as needed.

    A higher level is affordable if its load is at most HEADROOM and the queue would be served in time. If a higher level has
    been affordable for COOLDOWN times the latency target, the level goes up to the highest affordable level.
    """
    state = _with_arrivals(plan, state, seen)
    level = state.level
    while level > 0 and not (_in_time(plan, state, level, seen) and load(plan, state, level) <= UTILIZATION_LIMIT):
        level -= 1
    if level < state.level:
        return state._replace(level=level, affordable_since=None)
    best = level
    while best + 1 < len(plan.levels) and load(plan, state, best + 1) <= HEADROOM and _in_time(plan, state, best + 1, seen):
        best += 1
    if best == level:
        return state if state.affordable_since is None else state._replace(affordable_since=None)
    since = seen.time if state.affordable_since is None else state.affordable_since
    if seen.time - since < COOLDOWN * plan.target:
        return state._replace(affordable_since=since)
    return state._replace(level=best, affordable_since=None)


def served(plan: Elastic, state: State, level: int, images: int, seconds: float) -> State:
    """Return the state after a call.

    Args:
        plan: the levels and limits.
        state: the state before the call.
        level: index of the call's level.
        images: number of images in the call, 1 or more.
        seconds: duration of the call; ignored unless it is a positive finite number.
    """
    if not (0 < seconds < math.inf):
        return state
    old = state.scales[level]
    ratio = seconds / (plan.levels[level].fixed + plan.levels[level].each * images)
    # A single call may be slow by accident, so it changes the scale only a little.
    new = min(max(old + (min(ratio, 2 * old) - old) * _LEARNED, _LEAST_SCALE), _MOST_SCALE)
    # What slows this level down may also slow down the other levels. What slowed those down earlier may have ended. So move
    # the scales of the other levels a little towards the scale of this level.
    scales = [scale + (new - scale) * _DRIFT for scale in state.scales]
    scales[level] = new
    return state._replace(scales=tuple(scales))


def images_per_call(plan: Elastic, state: State, level: int) -> int:
    """Return the maximum number of images per call at a level.

    Even if an image must first wait for a call of this size, its own call still ends in time.
    """
    at = plan.levels[level]
    budget = (plan.target * SAFETY_MARGIN / (2 * state.scales[level]) - at.fixed) / at.each
    if budget >= plan.most_images:
        return plan.most_images
    return max(math.floor(budget) // plan.multiple * plan.multiple, plan.multiple)


def load(plan: Elastic, state: State, level: int) -> float:
    """Return the load at a level.

    The load is the time that full calls take for the images that arrive in one second, in seconds. If the load is 1 or more,
    the queue grows.
    """
    images = images_per_call(plan, state, level)
    return state.rate * _seconds(plan, state, level, images) / images


def _with_arrivals(plan: Elastic, state: State, seen: Seen) -> State:
    arrived, elapsed = state.arrived + seen.arrived, seen.time - state.time
    if not elapsed > 0:
        return state._replace(arrived=arrived)
    # At first, when less time than this has passed, the rate is the mean over all the time since `began`.
    span = min(MEMORY * plan.target + elapsed, seen.time - state.began)
    rate = state.rate + (arrived / elapsed - state.rate) * (elapsed / span)
    return state._replace(rate=rate, arrived=0.0, time=seen.time)


def _seconds(plan: Elastic, state: State, level: int, images: int) -> float:
    at = plan.levels[level]
    return state.scales[level] * (at.fixed + at.each * images)


def _in_time(plan: Elastic, state: State, level: int, seen: Seen) -> bool:
    """Return whether the first and the last image in the queue would be answered in time if calls ran at `level`."""
    budget = plan.target * SAFETY_MARGIN
    images = images_per_call(plan, state, level)
    calls, rest = divmod(seen.waiting, images)
    whole = calls * _seconds(plan, state, level, images)
    last = whole + (_seconds(plan, state, level, rest) if rest else 0.0)
    return last <= budget and seen.oldest + _seconds(plan, state, level, min(seen.waiting, images)) <= budget


def fitted_level(profile: str, times: Sequence[tuple[int, float]]) -> Level:
    """Return a level for a setting, fitted to measured call times by least squares.

    The fit gives the level's fixed time and its time per image.

    Args:
        profile: name of the setting.
        times: (images, seconds) of at least one call. If all calls have the same number of images, the time is assumed to be
            proportional to the number of images.

    Raises:
        ElasticError: there are no times, or a number is not positive.
    """
    if not times or not all(images > 0 and 0 < seconds < math.inf for images, seconds in times):
        raise ElasticError(f"{profile}: a level needs the times of calls, which are positive numbers")
    images_mean = sum(images for images, _ in times) / len(times)
    seconds_mean = sum(seconds for _, seconds in times) / len(times)
    spread = sum((images - images_mean) ** 2 for images, _ in times)
    covariance = sum((images - images_mean) * (seconds - seconds_mean) for images, seconds in times)
    each = covariance / spread if spread else 0.0
    fixed = seconds_mean - each * images_mean
    if each <= 0 or fixed < 0:
        return Level(profile, 0.0, seconds_mean / images_mean)
    return Level(profile, fixed, each)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
