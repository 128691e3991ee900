"""Compares graphs with the reference, part by part: each part gets the reference's activations, so depth doesn't add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.validation.graph_parts import GraphParts, LoadedPart
from vmoe_export.validation.limits import Limits, invalid
from vmoe_export.validation.reference_model import Array, Stream
from vmoe_export.validation.reference_run import Step
from vmoe_measure.comparison import Run, differences
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import TOKEN_OUTPUT

_FEW_PAIRS = 2  # one tie that rounding decides otherwise moves two pairs, however few there are
_MERGED_ALIKE = 0.95
"""Least share of merged tokens that were to be, or nearly."""


@dataclass
class Comparison:
    """One graph at one profile against the reference.

    Attributes:
        graph: file name of the graph.
        profile: name of the profile, or None where there are none.
        part: the part of the model that is farthest off on the reference's input, such as "encoderblock_3/Moe".
        relative_difference: how far, as a share of the size of what the part adds to the residual stream.
        max_difference: largest absolute difference of any part.
        agreement: share of the (token, choice) pairs routed alike in the MoE layer where it is smallest.
        output_difference: from images to output, where every difference goes into the next part: how far the output of a
            typical image is off, as a share of its size.
        images: number of images compared.
        images_alike: those of them that are routed alike in every layer from images to output.
    """

    graph: str
    profile: str | None
    part: str = "embedding"
    relative_difference: float = 0.0
    max_difference: float = 0.0
    agreement: float = 1.0
    output_difference: float = 0.0
    images: int = 0
    images_alike: int = 0


@dataclass
class _Watch:
    """A graph at a profile while its parts go by."""

    graph: GraphParts
    number: int  # of the profile
    profile: Profile | None
    own: Stream  # what its own parts before gave
    found: Comparison
    routes: list[Array] = field(default_factory=list)
    misrouted: bool = False


class PartValidation:
    """Compares graphs with the reference while that runs.

    Args:
        model: what the graphs compute.
        graphs: with what each is held to.
        profiles: those of the bundle that merge alike; none for a dense ViT and a Soft MoE that don't.
        images: as the model takes them, whole routing groups.
    """

    def __init__(
        self,
        model: ExportedModel,
        graphs: Sequence[tuple[GraphParts, Limits]],
        profiles: Sequence[Profile],
        images: Array,
    ) -> None:
        self._model, self._images = model, images
        self._limits = {id(graph): limits for graph, limits in graphs}
        self._watched = [
            _Watch(graph, number, profile, Stream(images), Comparison(graph.written.file, profile.name if profile else None))
            for graph, _ in graphs
            for number, profile in enumerate(profiles or (None,))
            if graph.written.suits(profile)
        ]

    def compare(self, part: str, steps: Sequence[Step]) -> None:
        """Runs a part of every graph on what the reference's takes, and compares what both give.

        Raises:
            ExportError: a part is beyond its limits.
        """
        graph = loaded = None
        for watch in self._watched:
            if watch.graph is not graph:
                loaded = None  # before the next one is there
                graph, loaded = watch.graph, watch.graph.load(part)
            assert loaded is not None
            self._compare(watch, loaded, part, steps[watch.number])

    def comparisons(self, expected: Sequence[Run]) -> list[Comparison]:
        """What was found, at the end; `expected` are the runs of the reference by profile."""
        for watch in self._watched:
            apart = differences(expected[watch.number], self._run_of(watch, watch.own.x, watch.routes))
            watch.found.output_difference = float(np.median(apart.relative))
            watch.found.images, watch.found.images_alike = len(self._images), int(apart.alike.sum())
        return [watch.found for watch in self._watched]

    def _compare(self, watch: _Watch, loaded: LoadedPart, part: str, step: Step) -> None:
        found, routes = loaded.run(step.before, self._images, watch.profile)
        # The same of what the graph's own parts made of the images.
        own = (found, routes) if part == "embedding" else loaded.run(watch.own, self._images, watch.profile)
        watch.own = own[0]
        watch.routes += own[1]
        same: Array | None = None
        if routes:
            assert self._model.config.moe is not None
            layer = self._model.config.moe.layers.index(int(part.partition("/")[0].rpartition("_")[2]))
            # By image: there may be more than were to be compared, and more rows where each has members.
            rows = self._images if self._model.config.ensemble_size > 1 else step.before.x
            expected = Run.of(self._model.layer_outputs, [rows, *step.routes], watch.profile)
            for pairs in differences(expected, self._run_of(watch, rows, routes, layer)).pairs:
                same = self._tokens_alike(pairs, step.before.x.shape[1])[:, : found.x.shape[1]]
                watch.found.agreement = min(watch.found.agreement, float(pairs.mean()))
                most = max(_FEW_PAIRS, (1 - self._limits[id(watch.graph)].agreement) * pairs.size)
                watch.misrouted |= bool(np.count_nonzero(~pairs) > most)
        self._judge(watch, part, step, found, same)

    def _tokens_alike(self, pairs: Array, tokens: int) -> Array:
        """bool[rows, T], the tokens whose pairs[images, T * members * choices] are all true."""
        config = self._model.config
        by_token: Array = np.all(pairs.reshape(len(pairs), tokens, config.ensemble_size, -1), axis=3)
        return by_token.swapaxes(1, 2).reshape(-1, tokens)

    def _judge(self, watch: _Watch, part: str, step: Step, found: Stream, same: Array | None) -> None:
        # Where no class token is routed alike, the share of pairs judges alone.
        relative = step.distance(found, same) if same is None or same.any() else 0.0
        apart = np.abs(found.x - step.as_merged(found).x)
        largest = float((apart if same is None else apart[same]).max(initial=0))
        worst = watch.found
        if not relative <= worst.relative_difference:
            worst.relative_difference, worst.part = relative, part
        worst.max_difference = max(worst.max_difference, largest)
        limits, where = self._limits[id(watch.graph)], f"{part} of {worst.graph}"
        if watch.profile:
            where += f" at {watch.profile.name}"
        if not np.isfinite(found.x).all():
            raise invalid(
                f"{where} gives values that are not finite: they are too large for its type; choose another --precision"
            )
        if (alike := step.merged_alike(found, self._model.config)) < _MERGED_ALIKE:
            least = f"less than {_MERGED_ALIKE:.0%}"
            raise invalid(f"{where} agrees with the reference on {alike:.2%} of the merged tokens, {least}")
        if watch.misrouted:
            least = f"less than {limits.agreement:.0%}"
            raise invalid(f"{where} routes {worst.agreement:.2%} of the pairs as the reference does, {least}")
        if limits.difference is None and not relative <= limits.relative:
            raise invalid(
                f"{where} differs from the reference by {relative:.2g} of its size, but rounding explains only "
                f"{limits.relative:.2g}; --atol X accepts differences up to X (here {largest:.2g})"
            )
        if limits.difference is not None and not largest <= limits.difference:
            raise invalid(f"{where} differs from the reference by {largest:.2g}, more than --atol {limits.difference:g}")

    def _run_of(self, watch: _Watch, output: Array, routes: Sequence[Array], first: int = 0) -> Run:
        """A run whose routes are those of the MoE layers from `first` on."""
        written, names = watch.graph.written, self._model.layer_outputs
        if written.profile:
            names = ("slot", "weight", TOKEN_OUTPUT)
        if len(written.cuts[0]) == 1:  # it merges nothing
            names = tuple(name for name in names if name != TOKEN_OUTPUT)
        profile = watch.profile and replace(watch.profile, slots=watch.profile.slots[first:])
        return Run.of(names, [output, *routes], profile)
