"""The results of validating a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from vmoe_export.validation.limits import Limits


@dataclass
class Comparison:
    """The comparison of one graph at one profile with the reference.

    The parts of the model are compared one by one, and each part of the graph gets the input of the reference's part.
    Only `output_difference` and `images_alike` come from end-to-end runs, in which each part gets the output of the
    graph's previous part.

    Attributes:
        graph: file name of the graph.
        profile: name of the profile. It is None if there are no profiles.
        part: the part with the largest relative difference, such as "encoderblock_3/Moe".
        relative_difference: the difference of `part`, relative to the norm of what the part adds to the residual
            stream.
        max_difference: largest absolute difference of any part.
        agreement: share of the (token, choice) pairs of a MoE layer that the graph and the reference route in the same
            way. If the layers differ, this is the smallest share of any layer.
        output_difference: relative difference of the output after an end-to-end run, as the median over the images.
        images: number of images compared.
        images_alike: number of images that the graph and the reference route in the same way in every layer of an
            end-to-end run.
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


@dataclass(frozen=True)
class PrecisionDistance:
    """The comparison, at one profile, of the stored model with the same model in float32. Both run in numpy.

    Attributes:
        profile: name of the profile. It is None if there are no profiles.
        part: the part that rounding changes most if both models get the part's input from the float32 model.
        part_difference: the difference of `part`, relative to the norm of what the part adds to the residual stream.
        max_difference: largest absolute difference of the output after an end-to-end run, over all images.
        relative_difference: relative difference of the output after an end-to-end run, as the median over the images.
        agreement: for each MoE layer, such as "encoderblock_1", the share of the (token, choice) pairs that both models
            send to the same expert, or that both models drop.
        images: number of images compared.
        same_top1: share of the images for which both models predict the same class. It is None if the images are random
            or the output is not logits.
        top1: top-1 accuracy of the stored model. It is None if the images have no labels.
        top1_float32: top-1 accuracy of the float32 model. It is None if the images have no labels.
    """

    profile: str | None
    part: str
    part_difference: float
    max_difference: float
    relative_difference: float
    agreement: dict[str, float]
    images: int
    same_top1: float | None = None
    top1: float | None = None
    top1_float32: float | None = None


@dataclass(frozen=True)
class Findings:
    """The results of validation, and their limits.

    Attributes:
        limits: limits of `comparisons`. It is None if nothing was validated.
        comparisons: the comparison of each CPU graph at each profile with the reference in the same precision.
        distance_limit: largest allowed `part_difference` in `distances`. It is None if `distances` is empty.
        distances: for each profile, the comparison of the reference in the stored precision with the reference in
            float32. It is empty if the stored precision is fp32.
        own_images: whether `distances` were measured on the user's images instead of random ones.
        tensorrt_limits: limits of `tensorrt_comparisons`. It is None if there are no such comparisons.
        tensorrt_comparisons: the comparisons of the TensorRT graphs with the reference.
    """

    limits: Limits | None = None
    comparisons: tuple[Comparison, ...] = ()
    distance_limit: float | None = None
    distances: tuple[PrecisionDistance, ...] = ()
    own_images: bool = False
    tensorrt_limits: Limits | None = None
    tensorrt_comparisons: tuple[Comparison, ...] = ()
