"""The backend for standard ops, which has two graphs.

One graph is for calls without merging, and the other is for calls that merge tokens. In the graph for calls without merging,
the number of tokens in each layer is known when the graph is loaded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vmoe_runtime.backends import Array, Backend
from vmoe_runtime.bundle.manifest import IMAGE_INPUT, INLINED_GRAPH, MERGING_GRAPH
from vmoe_runtime.bundle.reader import Bundle, BundleGraph
from vmoe_runtime.errors import RoutingError
from vmoe_runtime.routing_kinds import TOKEN_OUTPUT
from vmoe_runtime.settings import MERGE, ROWS


class StandardBackend:
    """A backend that loads the inlined graph and, if the bundle contains one, the graph that merges tokens.

    Args:
        bundle: the bundle whose graphs are loaded.
        load: function that loads one graph.
    """

    def __init__(self, bundle: Bundle, load: Callable[[BundleGraph], Backend]) -> None:
        self._plain = load(bundle.graph(INLINED_GRAPH))
        self._merging = load(bundle.graph(MERGING_GRAPH)) if MERGING_GRAPH in bundle.manifest.files else None
        self._image_tokens = bundle.manifest.rules.image_tokens
        self.description = self._plain.description

    def run(self, feeds: dict[str, Array], outputs: list[str]) -> list[Array]:
        """Run the merging graph if the feeds request merging, else the inlined graph; see `Backend`.

        Raises:
            RoutingError: the feeds request merging, but the bundle contains no merging graph.
        """
        if feeds.get(MERGE, np.zeros(1)).any():
            if self._merging is None:
                raise RoutingError(
                    "on standard ops only a bundle that was exported with --merge can merge tokens; export it again with "
                    "--merge R, or run it on the op library"
                )
            return self._merging.run(feeds, outputs)
        asked = [name for name in outputs if not _is_token(name)]
        plain = {name: array for name, array in feeds.items() if name == IMAGE_INPUT or not ROWS[name].merging}
        results = iter(self._plain.run(plain, asked))
        # Without merging, every token stays at its position.
        places = np.tile(np.arange(self._image_tokens or 0, dtype=np.int32), (len(feeds[IMAGE_INPUT]), 1))
        return [places if _is_token(name) else next(results) for name in outputs]


def _is_token(output: str) -> bool:
    return output.rpartition("/")[2] == TOKEN_OUTPUT
