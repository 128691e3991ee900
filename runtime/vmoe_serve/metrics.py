"""The Prometheus metrics of both HTTP services. The generated headers contain them for C++.

To add a metric that is a single number, add a field with a `Metric` to `Load` and run `python tools/cpp_headers.py`. Update
the field in `vmoe_serve.batcher`, and for C++ in `vmoe/batcher.hpp`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Metric:
    """The declaration of a metric.

    Attributes:
        name: name of the metric.
        help: description of the metric.
        is_gauge: whether the metric is a current value rather than a running total.
    """

    name: str
    help: str
    is_gauge: bool = False


def _number(name: str, help: str, *, is_gauge: bool = False) -> Any:
    return field(default=0, metadata={"metric": Metric(name, help, is_gauge)})


@dataclass
class Load:
    """The state of a batcher's queue, and counts since the batcher was started.

    Attributes:
        level: name of the current setting for requests that specify no setting; None for a model without settings.
        served: number of answered images, by the name of their setting. If neither the bundle nor the plan contains a
            setting, its images are counted as "other". For a model without settings, the name is "".

    The other fields are numbers. Each one is declared with its `Metric`.
    """

    level: str | None = None
    served: Counter[str] = field(default_factory=Counter)
    waiting: int = _number("vmoe_images_waiting", "Images in the queue.", is_gauge=True)
    calls: int = _number("vmoe_calls_total", "Calls of the engine.")
    busy: float = _number("vmoe_busy_seconds_total", "Seconds of these calls.")
    refused: int = _number("vmoe_requests_refused_total", "Requests that found the queue full.")
    cancelled: int = _number("vmoe_requests_cancelled_total", "Requests whose client disconnected in the queue.")


NUMBERS: Mapping[str, tuple[str, Metric]] = {
    each.name: (str(each.type), each.metadata["metric"]) for each in fields(Load) if each.metadata
}
"""Type, "int" or "float", and metric of each number in `Load`, by the name of its field."""
SERVED = Metric("vmoe_images_served_total", "Images that were answered, by the setting that served them.")
UNTURNED = Metric("vmoe_pictures_unturned_total", "Pictures with an EXIF orientation that were taken as they are stored.")
REQUEST_SECONDS = Metric("vmoe_request_seconds", "Seconds from a request to its reply.")
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
