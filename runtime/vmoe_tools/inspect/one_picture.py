"""One picture at several settings: its predicted class at each setting, and the expert of each patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmoe_runtime import Routing, RoutingError
from vmoe_runtime.classes import most_probable, probabilities_of
from vmoe_runtime.routing import Array, TokenLayout
from vmoe_tools.bench.planned_points import Point
from vmoe_tools.bench.quality import Assessment
from vmoe_tools.inspect.statistics import choices_of, class_name
from vmoe_tools.output import class_records

_LONGEST_NAME = 18


@dataclass(frozen=True)
class SettingAnswer:
    """The results of the picture at one setting.

    Attributes:
        name: name of the setting, or of the bundle if it has no settings.
        flops_per_image: FLOPs of the matrix products for this picture; None if the manifest lacks the sizes.
        classes: index and probability of all classes, the most likely first.
        experts: for each MoE layer, a list for each token. It contains the experts that processed the token, the one with
            the largest gate first. It is empty if the token was dropped. If there is a classifier token, it comes first,
            before the patches, which are in order row by row.
        tokens: for each MoE layer and each original token of the picture, the index of the token that contains it in this
            layer. Original tokens that were merged into one have the same index.
    """

    name: str
    flops_per_image: int | None
    classes: tuple[tuple[int, float], ...]
    experts: Mapping[str, list[list[int]]]
    tokens: Mapping[str, list[int]]

    @property
    def top1(self) -> int:
        """The most likely class."""
        return self.classes[0][0]


@dataclass(frozen=True)
class PictureReport:
    """The results of the picture at all settings. The field names are keys of the JSON.

    Attributes:
        bundle: name of the bundle.
        picture: the file.
        class_names: class names of the model; None if the bundle has none.
        grid: rows and columns of patches; None if the manifest doesn't say which tokens are patches.
        settings: the results of each setting, fewest FLOPs first.
        flips: indices of the settings whose predicted class differs from that of the previous setting.
    """

    bundle: str
    picture: str
    class_names: tuple[str, ...] | None
    grid: tuple[int, int] | None
    settings: tuple[SettingAnswer, ...]
    flips: tuple[int, ...]

    def record(self) -> dict[str, Any]:
        """Return the report as a dictionary with the keys and values of the JSON.

        The classes have the same format as in `vmoe run`.
        """
        settings = [{**asdict(each), "classes": class_records(each.classes, self.class_names)} for each in self.settings]
        return {**asdict(self), "settings": settings}

    def named(self, index: int) -> str:
        """Return the name of a class for use in sentences. A long name is shortened."""
        return f"class {index}" if self.class_names is None else class_name(index, self.class_names, _LONGEST_NAME)

    def patches(self, setting: SettingAnswer, layer: str) -> Array:
        """Return i64[2,rows,columns]: for each patch, an expert, and the index of the token that contains the patch.

        The expert is the one with the largest gate, or -1 if the patch was dropped.

        Raises:
            RoutingError: `grid` is None.
        """
        if self.grid is None:
            raise RoutingError("the bundle's manifest doesn't say which tokens are patches")
        experts = [token[0] if token else -1 for token in setting.experts[layer]]
        both = np.array([experts, setting.tokens[layer]])[:, -self.grid[0] * self.grid[1] :]
        return both.reshape(2, *self.grid)


def compare_settings(points: Sequence[Point], batch: Array, picture: str) -> PictureReport:
    """Run the picture at every point.

    Args:
        points: points of one model that returns logits, at batch size 1.
        batch: dtype[1,H,W,C], the picture as an input of the graph.
        picture: path of the picture file, which the report shows.

    Raises:
        VmoeError: a backend failed.
    """
    manifest = points[0].engine.manifest
    layout = TokenLayout.of(manifest)
    answers = sorted((_answer(point, batch) for point in points), key=lambda setting: setting.flops_per_image or 0)
    return PictureReport(
        bundle=points[0].loaded.name,
        picture=picture,
        class_names=manifest.class_names,
        grid=None if layout is None else (layout.rows, layout.columns),
        settings=tuple(answers),
        flips=tuple(i for i in range(1, len(answers)) if answers[i].top1 != answers[i - 1].top1),
    )


def _answer(point: Point, batch: Array) -> SettingAnswer:
    seen: list[tuple[Array, Mapping[str, Routing], Array | None]] = []
    assessment = Assessment(point, [lambda *results: seen.append(results)])
    assessment.add(batch, None)
    ((logits, routing, _),), quality = seen, assessment.quality()
    assert quality is not None
    shares = probabilities_of(logits, point.engine.manifest.probabilities)[0]
    experts = {name: _experts(layer) for name, layer in routing.items()}
    return SettingAnswer(
        name=point.loaded.name if point.profile is None else point.profile.name,
        flops_per_image=quality.flops_per_image,
        classes=tuple((index, float(shares[index])) for index in most_probable(logits, len(shares))[0].tolist()),
        experts=experts,
        tokens={
            name: list(range(len(experts[name]))) if layer.token is None else layer.token[0].tolist()
            for name, layer in routing.items()
        },
    )


def _experts(routing: Routing) -> list[list[int]]:
    choices = choices_of(routing.by_token())
    tokens = len(choices.kept) if routing.layout is None else routing.layout.tokens
    expert, kept, weight = (part.reshape(tokens, -1) for part in (choices.expert, choices.kept, choices.weight))
    order = np.argsort(-weight, axis=1, kind="stable")
    return [row[by][has[by]].tolist() for row, has, by in zip(expert, kept, order, strict=True)]
