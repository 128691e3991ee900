"""The metrics of a server, as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from vmoe_serve.batching import Batcher

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics(Collector):
    """The metrics of one served model: replies by status and time, and the counts of its batcher."""

    def __init__(self, model: str, batcher: Batcher) -> None:
        """Metrics without any counts yet.

        Args:
            model: its name, a label of everything.
            batcher: the source of the load.
        """
        self._registry = CollectorRegistry()
        self._model, self._batcher = model, batcher
        self._replies = Histogram(
            "vmoe_request_seconds",
            "Seconds from a request to its reply.",
            ["model", "request", "status"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)

    def replied(self, request: str, status: int, seconds: float) -> None:
        """Counts a reply.

        Args:
            request: the label of its endpoint.
            status: of HTTP.
            seconds: from the request to the reply.
        """
        self._replies.labels(self._model, request, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """The batcher's counts, for the registry."""
        load = self._batcher.load()
        waiting = GaugeMetricFamily("vmoe_images_waiting", "Images in the queue.", labels=["model"])
        waiting.add_metric([self._model], load.waiting)
        yield waiting
        served = CounterMetricFamily(
            "vmoe_images_served", "Images that were answered, by the setting that served them.", labels=["model", "setting"]
        )
        for setting, images in sorted(load.served.items()):
            served.add_metric([self._model, setting], images)
        yield served
        for name, text, value in (
            ("vmoe_calls", "Calls of the engine.", load.calls),
            ("vmoe_busy_seconds", "Seconds of these calls.", load.busy),
            ("vmoe_requests_refused", "Requests that found the queue full.", load.refused),
            ("vmoe_requests_cancelled", "Requests whose client disconnected in the queue.", load.cancelled),
        ):
            counter = CounterMetricFamily(name, text, labels=["model"])
            counter.add_metric([self._model], value)
            yield counter
