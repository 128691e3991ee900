"""Calls at once: several callers of one engine, each a thread that waits for its answer before it asks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

from vmoe_measure.timing import Speed, summarize

CALLS_EACH = 4


class ConcurrentCalls:
    """One round of calls: `callers` threads begin together, and each makes `CALLS_EACH` calls one after another.

    Attributes:
        images: of a round.
    """

    def __init__(self, call: Callable[[], object], callers: int, images_per_call: int) -> None:
        """Makes the threads.

        Args:
            call: safe from many threads.
            callers: how many call at once.
            images_per_call: batch size.
        """
        self._call, self._callers, self._images_per_call = call, callers, images_per_call
        self.images = callers * CALLS_EACH * images_per_call
        self._threads = ThreadPoolExecutor(callers)
        self._begin = Barrier(callers)
        self._seconds: list[float] = []

    def __call__(self) -> None:
        """Makes all calls of a round; what a call raises is raised."""
        try:
            rounds = [self._threads.submit(self._one_caller) for _ in range(self._callers)]
            for calls in rounds:
                self._seconds += calls.result()
        except BaseException:
            # Who waits for callers that don't come any more would wait for ever.
            self._begin.abort()
            raise

    def speed(self, seconds: Sequence[float]) -> Speed:
        """The speed behind the times of the last rounds: images of a round over its median time, percentiles of calls.

        Args:
            seconds: of each round; at least one.
        """
        calls = self._seconds[-self._callers * CALLS_EACH * len(seconds) :]
        whole, single = summarize(seconds, self.images), summarize(calls, self._images_per_call)
        return replace(single, images_per_second=whole.images_per_second)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()

    def _one_caller(self) -> list[float]:
        seconds = []
        self._begin.wait()
        for _ in range(CALLS_EACH):
            start = time.perf_counter()
            self._call()
            seconds.append(time.perf_counter() - start)
        return seconds
