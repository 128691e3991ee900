"""Compare graphs with the reference part by part.

Each part gets the reference's activations as input, so that differences do not accumulate over the depth of the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vmoe_export.validation.findings import Comparison
from vmoe_export.validation.graph_parts import GraphParts, PartRun
from vmoe_export.validation.limits import Limits, invalid
from vmoe_export.validation.reference_model import Array, ReferenceModel, Stream
from vmoe_export.validation.reference_run import Step, judged_steps, run_reference
from vmoe_measure.comparison import Run, differences
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import TOKEN_OUTPUT

_FEW_PAIRS = 2  # this many pairs may always differ, because one tie that is broken differently changes two pairs
_MERGED_ALIKE = 0.95
"""Smallest allowed share of merged tokens that the reference merges alike, or would with slightly different rounding."""


@dataclass
class _Watch:
    """A graph at a profile, and its state between two parts."""

    graph: GraphParts
    limits: Limits
    number: int  # index of the profile
    profile: Profile | None
    own: Stream  # output of the graph's previous part in its end-to-end run
    routes: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.found = Comparison(self.graph.written.file, self.profile.name if self.profile else None)


class PartValidation:
    """A comparison of graphs with the reference, made while the reference runs.

    Args:
        reference: the model that the graphs compute.
        graphs: the graphs, each with its limits.
        profiles: profiles of the bundle, all of which merge the same number of tokens. It is empty if the bundle has no
            profiles.
        images: images in the form that the model takes, in whole routing groups.
        advance: called with 1 after each part of the model.
    """

    def __init__(
        self,
        reference: ReferenceModel,
        graphs: Sequence[tuple[GraphParts, Limits]],
        profiles: Sequence[Profile],
        images: Array,
        advance: Callable[[float], None],
    ) -> None:
        self._reference, self._model, self._images, self._advance = reference, reference.model, images, advance
        self._profiles = profiles
        self._watched = [
            _Watch(graph, limits, number, profile, Stream(images))
            for graph, limits in graphs
            for number, profile in enumerate(profiles or (None,))
            if graph.written.suits(profile)
        ]

    def run(self) -> list[Comparison]:
        """Run the reference and each part of every graph, and return the comparisons.

        Raises:
            ExportError: a part exceeds its limits.
        """
        expected = run_reference(self._reference, self._images, self._profiles, self._compare_all)
        for watch in self._watched:
            apart = differences(expected[watch.number], self._run_of(watch, watch.own.x, watch.routes))
            watch.found.output_difference = float(np.median(apart.relative))
            watch.found.images, watch.found.images_alike = len(self._images), int(apart.alike.sum())
        return [watch.found for watch in self._watched]

    def _compare_all(self, part: str, steps: list[Step]) -> None:
        """Run one part of every graph on the input of the reference's part.

        Compare the output of each graph's part with the output of the reference's part.
        """
        steps = judged_steps(self._reference, part, steps, self._profiles or (None,))
        graph = loaded = None
        for watch in self._watched:
            if watch.graph is not graph:
                loaded = None  # free the old part before loading the next part
                graph, loaded = watch.graph, watch.graph.load(part)
            assert loaded is not None
            self._compare(watch, loaded, part, steps[watch.number])
        self._advance(1)

    def _compare(self, watch: _Watch, run: PartRun, part: str, step: Step) -> None:
        found, routes = run(step.before, self._images, watch.profile)
        # Also continue the graph's end-to-end run, in which each part gets the output of the graph's previous part.
        watch.own, own_routes = (found, routes) if part == "embedding" else run(watch.own, self._images, watch.profile)
        watch.routes += own_routes
        same = alike = None
        if routes:
            assert self._model.config.moe is not None
            layer = self._model.config.moe.layers.index(int(part.partition("/")[0].rpartition("_")[2]))
            # Count the images of this step, because `judged_steps` may have replaced the images. It never does so for an
            # ensemble, whose steps have one row per member instead of one per image.
            rows = self._images if self._model.config.ensemble_size > 1 else step.before.x
            expected = Run.of(self._model.layer_outputs, [rows, *step.routes], watch.profile)
            for alike in differences(expected, self._run_of(watch, rows, routes, layer)).pairs:
                same = self._tokens_alike(alike, step.before.x.shape[1])[:, : found.x.shape[1]]
        self._judge(watch, part, step, found, same, alike)

    def _tokens_alike(self, pairs: Array, tokens: int) -> Array:
        """Return bool[rows, T], which shows for each token whether all of its pairs are true in `pairs`.

        Args:
            pairs: bool[images, T * members * choices].
            tokens: T, the number of tokens of an image.
        """
        config = self._model.config
        by_token: Array = np.all(pairs.reshape(len(pairs), tokens, config.ensemble_size, -1), axis=3)
        return by_token.swapaxes(1, 2).reshape(-1, tokens)

    def _judge(self, watch: _Watch, part: str, step: Step, found: Stream, same: Array | None, pairs: Array | None) -> None:
        """Record how far a part of a graph is from the reference. Raise ExportError if a limit is exceeded.

        Args:
            watch: the graph and the profile.
            part: the name of the part.
            step: the input and output of the reference's part.
            found: the output of the graph's part.
            same: bool[rows, T], whether the graph and the reference route a token in the same way. None if the part does
                not route tokens.
            pairs: bool[images, pairs], whether the graph and the reference route a pair in the same way. None if the part
                does not route tokens.
        """
        # If the graph and the reference route every token differently, judge only the share of equal pairs.
        relative = step.distance(found, same) if same is None or same.any() else 0.0
        apart = np.abs(found.x - step.as_merged(found).x)
        largest = float((apart if same is None else apart[same]).max(initial=0))
        worst = watch.found
        if not relative <= worst.relative_difference:
            worst.relative_difference, worst.part = relative, part
        worst.max_difference = max(worst.max_difference, largest)
        agreement = 1.0 if pairs is None else float(pairs.mean())
        worst.agreement = min(worst.agreement, agreement)
        limits, where = watch.limits, f"{part} of {worst.graph}"
        if watch.profile:
            where += f" at {watch.profile.name}"
        if not np.isfinite(found.x).all():
            raise invalid(
                f"{where} gives values that are not finite: they are too large for its type; choose another --precision"
            )
        if (merged := step.merged_alike(found, self._model.config)) < _MERGED_ALIKE:
            least = f"less than {_MERGED_ALIKE:.0%}"
            raise invalid(f"{where} agrees with the reference on {merged:.2%} of the merged tokens, {least}")
        if pairs is not None and np.count_nonzero(~pairs) > max(_FEW_PAIRS, (1 - limits.agreement) * pairs.size):
            least = f"less than {limits.agreement:.0%}"
            raise invalid(f"{where} routes {agreement:.2%} of the pairs as the reference does, {least}")
        if limits.difference is None and not relative <= limits.relative:
            raise invalid(
                f"{where} differs from the reference by {relative:.2g} of its size, but rounding explains only "
                f"{limits.relative:.2g}; --atol X accepts differences up to X (here {largest:.2g})"
            )
        if limits.difference is not None and not largest <= limits.difference:
            raise invalid(f"{where} differs from the reference by {largest:.2g}, more than --atol {limits.difference:g}")

    def _run_of(self, watch: _Watch, output: Array, routes: Sequence[Array], first: int = 0) -> Run:
        """Return a Run of the graph. `routes` holds the routes of the MoE layers, starting with layer number `first`."""
        written, names = watch.graph.written, self._model.layer_outputs
        if written.profile:
            names = ("slot", "weight", TOKEN_OUTPUT)
        if len(written.cuts[0]) == 1:  # the graph does not merge tokens
            names = tuple(name for name in names if name != TOKEN_OUTPUT)
        profile = watch.profile and replace(watch.profile, slots=watch.profile.slots[first:])
        return Run.of(names, [output, *routes], profile)
