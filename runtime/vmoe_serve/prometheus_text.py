"""Formats a server's metrics as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from vmoe_runtime.images import unturned_pictures
from vmoe_serve.batcher import Batcher
from vmoe_serve.metrics import NUMBERS, REQUEST_BUCKETS, REQUEST_SECONDS, SERVED, UNTURNED


class Metrics(Collector):
    """The metrics of one served model: the number of replies by status and duration, and its batcher's counts."""

    def __init__(self, model: str, batcher: Batcher) -> None:
        """Start all counts at zero.

        Args:
            model: name of the model. Each metric has this name as a label.
            batcher: the batcher whose load is reported.
        """
        self._registry = CollectorRegistry()
        self._model, self._batcher = model, batcher
        self._replies = Histogram(
            REQUEST_SECONDS.name,
            REQUEST_SECONDS.help,
            ["model", "request", "status"],
            buckets=REQUEST_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(self)

    def replied(self, request: str, status: int, seconds: float) -> None:
        """Count a reply.

        Args:
            request: the label of the reply's endpoint.
            status: HTTP status of the reply.
            seconds: time from the request to the reply.
        """
        self._replies.labels(self._model, request, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """Yield the batcher's metrics, and the number of pictures whose EXIF orientation was not applied."""
        load = self._batcher.load()
        served = CounterMetricFamily(SERVED.name, SERVED.help, labels=["model", "setting"])
        for setting, images in sorted(load.served.items()):
            served.add_metric([self._model, setting], images)
        yield served
        numbers = [(metric, getattr(load, name)) for name, (_, metric) in NUMBERS.items()]
        for metric, number in [*numbers, (UNTURNED, unturned_pictures())]:
            kind = GaugeMetricFamily if metric.is_gauge else CounterMetricFamily
            family = kind(metric.name, metric.help, labels=["model"])
            family.add_metric([self._model], number)
            yield family
