"""Micro-batches: one engine call serves several requests, at a setting that meets the latency target.

Requests wait in one bounded queue.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vmoe_runtime import Engine
from vmoe_runtime.errors import VmoeError
from vmoe_runtime.profiles import Profile
from vmoe_serve.elastic import Elastic, Seen, decide, images_per_call, served
from vmoe_serve.metrics import Load

Array = np.ndarray[Any, np.dtype[Any]]

_OTHER = "other"


class QueueFullError(VmoeError):
    """The queue is full; try again later."""


class ClosedError(VmoeError):
    """The batcher accepts no more requests."""


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
        outputs: the engine's outputs for the request's images, float32[N, ...] by name.
        setting: the setting that the call used; None for a model without settings.
        waited: seconds that the request waited in the queue after `submit`.
        seconds: duration of the call.
        batch_size: number of images in the call, including images from other requests.
    """

    outputs: Mapping[str, Array]
    setting: Profile | None
    waited: float
    seconds: float
    batch_size: int

    @property
    def logits(self) -> Array:
        """The first output. It is the logits if the model has any, otherwise the members, features or tokens."""
        return next(iter(self.outputs.values()))


@dataclass(frozen=True)
class _Request:
    images: Array
    setting: Profile | None  # None: the batcher chooses
    arrived: float
    answer: Future[Answer]


class Batcher:
    """Answers requests from any number of threads. It uses one engine, and makes one call at a time.

    Requests are served in order of arrival. A call serves the first request in the queue and later requests with the same
    setting; it never splits a request. For requests that specify no setting, `vmoe_serve.elastic` chooses one.

    Attributes:
        most_images: maximum number of images per call, and per request.
        most_waiting: maximum number of images in the queue.
    """

    def __init__(self, engine: Engine, plan: Elastic | None, *, most_images: int, most_waiting: int) -> None:
        """Start the thread that calls the engine.

        Args:
            engine: an engine whose bundle routes every image alone, so that no answer depends on other requests.
            plan: the settings and limits of elastic capacity, for requests that specify no setting. If it is None, these
                requests are served at the engine's profile.
            most_images, most_waiting: see the attributes of the class.
        """
        self._engine, self._plan = engine, plan
        self.most_images, self.most_waiting = most_images, most_waiting
        self._state = None if plan is None else plan.start(time.monotonic())
        self._queue: deque[_Request] = deque()
        self._load = Load()
        self._elastic_waiting = self._elastic_arrived = 0
        levels = () if plan is None else plan.levels
        # For each level, the setting for requests that specify no setting. If there are no levels, the list has one entry:
        # the engine's own setting.
        self._settings = [engine.setting(level.profile) for level in levels] or [engine.setting()]
        self._named = {*engine.manifest.profiles, *map(_name, [engine.setting(), *self._settings])}
        self._open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="vmoe-batcher", daemon=True)
        self._thread.start()

    def submit(self, images: Array, setting: Profile | str | None = None) -> Future[Answer]:
        """Add a request to the queue.

        Args:
            images: a batch that `Engine.batch` returned, of 1 to `most_images` images.
            setting: the profile for the request, or its name; None lets the batcher choose.

        Returns:
            A future that contains the answer, or the error that the call raised. If the future is cancelled, the request is
            removed from the queue.

        Raises:
            VmoeError: there are no images or more than `most_images`, or the model can't be run with the setting.
            QueueFullError: too many images wait.
            ClosedError: `close` was called.
        """
        count = len(images)
        if not 1 <= count <= self.most_images:
            raise VmoeError(f"a request takes 1 to {self.most_images} images, not {count}")
        profile = None if setting is None else self._engine.setting(setting)
        request = _Request(images, profile, time.monotonic(), Future())
        with self._changed:
            if not self._open:
                raise ClosedError("the server is shutting down")
            if self._load.waiting + count > self.most_waiting:
                self._load.refused += 1
                raise QueueFullError(f"{self._load.waiting} images wait already, and at most {self.most_waiting} may")
            self._queue.append(request)
            self._load.waiting += count
            if profile is None:
                self._elastic_waiting += count
                self._elastic_arrived += count
            self._changed.notify()
        return request.answer

    def load(self) -> Load:
        """Return the state of the queue, and counts since the batcher was started."""
        with self._changed:
            return replace(self._load, level=_name(self._level_setting()) or None, served=self._load.served.copy())

    def close(self) -> None:
        """Stop accepting requests, and return when all waiting requests have been answered."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def _level_setting(self) -> Profile | None:
        return self._settings[0 if self._state is None else self._state.level]

    def _serve(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._queue:
                    self._changed.wait()
                if not self._queue:
                    return
                setting, most = self._next_setting()
                requests = self._take(self._queue[0].setting, most)
            if requests:
                self._answer(requests, setting)

    def _next_setting(self) -> tuple[Profile | None, int]:
        """Return the setting of the next call, and the maximum number of images in this call.

        The first request in the queue determines the setting and the maximum.
        """
        requested = self._queue[0].setting
        if requested is not None:
            return requested, self.most_images
        if self._plan is None or self._state is None:
            return self._level_setting(), self.most_images
        now = time.monotonic()
        seen = Seen(now, self._elastic_waiting, now - self._queue[0].arrived, self._elastic_arrived)
        self._elastic_arrived = 0
        self._state = decide(self._plan, self._state, seen)
        return self._level_setting(), images_per_call(self._plan, self._state, self._state.level)

    def _take(self, requested: Profile | None, most: int) -> list[_Request]:
        """Remove the requests of the next call from the queue and return them.

        The call serves requests whose setting is `requested`, with up to `most` images. Cancelled requests are removed but
        not returned. So the list is empty if all removed requests were cancelled.
        """
        taken: list[_Request] = []
        space, left = most, deque[_Request]()
        while self._queue:
            request = self._queue.popleft()
            count = len(request.images)
            if request.setting != requested:
                left.append(request)
                continue
            if taken and count > space:
                left.append(request)
                break
            self._load.waiting -= count
            if requested is None:
                self._elastic_waiting -= count
            if request.answer.set_running_or_notify_cancel():
                taken.append(request)
                space -= count
            else:
                self._load.cancelled += 1
        self._queue.extendleft(reversed(left))
        return taken

    def _answer(self, requests: Sequence[_Request], setting: Profile | None) -> None:
        start = time.monotonic()
        try:
            images = requests[0].images if len(requests) == 1 else np.concatenate([request.images for request in requests])
            outputs = self._engine.outputs(images, setting)
        except Exception as error:  # every error must reach the clients
            for request in requests:
                request.answer.set_exception(error)
            return
        seconds = time.monotonic() - start
        with self._changed:
            name = _name(setting)
            self._load.served[name if name in self._named else _OTHER] += len(images)
            self._load.calls += 1
            self._load.busy += seconds
        first = 0
        for request in requests:
            last = first + len(request.images)
            waited = start - request.arrived
            own = {name: values[first:last] for name, values in outputs.items()}
            request.answer.set_result(Answer(own, setting, waited, seconds, len(images)))
            first = last
        if self._plan is not None and self._state is not None and requests[0].setting is None:
            # The measured time includes building the batch and returning the answers, because the next call starts only
            # afterwards.
            self._state = served(self._plan, self._state, self._state.level, len(images), time.monotonic() - start)


def _name(setting: Profile | None) -> str:
    return "" if setting is None else setting.name
