"""Which batches an engine is asked to be built for."""

from __future__ import annotations

from vmoe_runtime.backends.batch_range import BatchRange, default_largest
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_tools.command_line import UsageError


def choose_batches(manifest: Manifest, smallest: int | None, tuned: int | None, largest: int | None) -> BatchRange:
    """The batches that were asked for.

    Args:
        manifest: of the bundle; its routing groups say which batches fit.
        smallest, tuned, largest: as asked for. Defaults: the fewest images that fit; the most; 32, or as many as fit.

    Raises:
        UsageError: they don't fit the routing groups, or each other.
    """
    multiple = manifest.batch_multiple
    for option, size in (("--min-batch", smallest), ("--opt-batch", tuned), ("--max-batch", largest)):
        if size is not None and size % multiple:
            raise UsageError(
                f"{option} {size} doesn't fit: the bundle routes in groups ({manifest.group}) "
                f"that need a multiple of {multiple} images"
            )
    if largest is None:
        largest = max(default_largest(multiple), smallest or 0, tuned or 0)
    smallest = multiple if smallest is None else smallest
    tuned = largest if tuned is None else tuned
    if not smallest <= tuned <= largest:
        raise UsageError(
            f"--min-batch {smallest}, --opt-batch {tuned} and --max-batch {largest}: none may be above the next"
        )
    return BatchRange(smallest, tuned, largest)
