"""What takes runs of its own: how neighbours move an answer, and how alike the bundles of one model are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from vmoe_measure.image_source import ImageSource
from vmoe_runtime import Engine
from vmoe_tools.bench.loading import MeasuredEngine
from vmoe_tools.inspect.agreement import AgreementCount
from vmoe_tools.inspect.interference import Interference, call_size, interference
from vmoe_tools.report.contents import BundleAgreement

if TYPE_CHECKING:
    from vmoe_tools.bench.display import Progress

_COMPARED_IMAGES = 512
_CALLS_OF_NEIGHBOURS = 4
_SETS_OF_NEIGHBOURS = 10


def measure_neighbours(engine: Engine, source: ImageSource, profile: str, progress: Progress) -> Interference | None:
    """How far the answers of some images move with their neighbours.

    Args:
        engine: what answers.
        source: the images; a few of the first ones are taken.
        profile: name of the setting.
        progress: where it shows how far it is.

    Returns:
        None where every image is routed alone, or where there are too few images.
    """
    multiple = engine.manifest.batch_multiple
    if multiple == 1 or len(source) < 2 * multiple:
        return None
    size = call_size(multiple, len(source))
    count = min(len(source) // size, _CALLS_OF_NEIGHBOURS) * size
    images = source.first_batch(count, engine.manifest.input)
    with progress.step("neighbours", count * _SETS_OF_NEIGHBOURS) as advance:
        return interference(engine, images, profile, _SETS_OF_NEIGHBOURS, after_set=lambda done: advance(done, done))


def measure_agreements(
    engines: Sequence[MeasuredEngine], source: ImageSource, profile: str, batch_size: int, progress: Progress
) -> tuple[BundleAgreement, ...]:
    """How alike the bundles of one model are, each held against the first one.

    Args:
        engines: the first one, and others; those that are compared as other models are left out.
        source: the images; some of the first ones are taken.
        profile: name of the setting.
        batch_size: images per call.
        progress: where it shows how far it is.
    """
    first, *others = engines
    others = [loaded for loaded in others if not loaded.compared and loaded.path != first.path]
    calls = max(1, min(len(source), _COMPARED_IMAGES) // batch_size)
    found = []
    with progress.step("agreement", calls * batch_size * len(others)) as advance:
        for loaded in others:
            rules = first.engine.manifest.rules
            count = AgreementCount(rules.num_experts if rules else 0, has_top1=first.engine.manifest.output == "logits")
            for batch, _ in islice(source.whole_batches(batch_size, first.engine.manifest.input), calls):
                ours, our_routing = first.engine.logits_and_routing(batch, profile)
                theirs, their_routing = loaded.engine.logits_and_routing(batch, profile)
                count.add(ours, theirs, our_routing, their_routing)
                advance(len(batch), len(batch))
            found.append(BundleAgreement(loaded.bundle, profile, count.result()))
    return tuple(found)
