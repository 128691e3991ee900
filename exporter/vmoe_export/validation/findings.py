"""What validation of a bundle found."""

from __future__ import annotations

from dataclasses import dataclass

from vmoe_export.validation.limits import Limits


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


@dataclass(frozen=True)
class PrecisionDistance:
    """The model as stored against the model with the checkpoint's float32 weights, both in numpy, at one profile.

    Attributes:
        profile: name of the profile, or None where there are none.
        part: the part of the model that rounding moves most, on the input that it has in float32.
        part_difference: how far, as a share of the size of what the part adds to the residual stream.
        max_difference: from images to output, largest absolute difference of logits (or features), over all images.
        relative_difference: how far the output of a typical image is off, as a share of its size: the median of
            `relative_differences`.
        agreement: by MoE layer, such as "encoderblock_1", share of the (token, choice) pairs that both keep at the same
            expert or both drop.
        images: number of images compared.
        same_top1: share of the images whose largest logit is that of the same class; None where the images are random, or
            the model gives no logits.
        top1, top1_float32: share of the images that each model puts into their class; None where that is not known.
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
        limits: those of `comparisons`; None if nothing was validated.
        comparisons: each graph at each profile, compared with the reference in the same precision.
        distance_limit: largest allowed `part_difference` of `distances`; None if there are none.
        distances: for precisions other than fp32, that reference at each profile, compared with the one in float32.
        own_images: whether `distances` were measured on the user's images instead of random ones.
        tensorrt_limits: those of `tensorrt_comparisons`; None if there are none.
        tensorrt_comparisons: the TensorRT graphs, compared with the reference.
    """

    limits: Limits | None = None
    comparisons: tuple[Comparison, ...] = ()
    distance_limit: float | None = None
    distances: tuple[PrecisionDistance, ...] = ()
    own_images: bool = False
    tensorrt_limits: Limits | None = None
    tensorrt_comparisons: tuple[Comparison, ...] = ()
