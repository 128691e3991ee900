"""What a manifest records for people. Readers check none of it, so a value of another type is taken for a missing one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vmoe_runtime.bundle.manifest import Manifest

_MAX_WHOLE = 2**53


@dataclass(frozen=True)
class Origin:
    """Where a bundle comes from; None where the manifest doesn't say.

    Attributes:
        name, format, sha256: of the checkpoint.
        producer, producer_version: of the bundle.
    """

    name: str | None
    format: str | None
    sha256: str | None
    producer: str | None
    producer_version: str | None


@dataclass(frozen=True)
class Description:
    """The model in names of the official configs; None where the manifest doesn't say.

    Attributes:
        patch_size: (height, width) in pixels.
        num_layers: encoder blocks.
        hidden_size: width of a token.
        num_heads: of an attention.
        mlp_dim: hidden size of the dense MLPs.
        classifier: "token", "gap" or "map".
        num_classes: of the head, also where the bundle puts out features.
        expert_mlp_dim: hidden size of an expert.
        dispatch_bf16: whether what experts take and give is rounded to bfloat16.
    """

    patch_size: tuple[int, int] | None
    num_layers: int | None
    hidden_size: int | None
    num_heads: int | None
    mlp_dim: int | None
    classifier: str | None
    num_classes: int | None
    expert_mlp_dim: int | None
    dispatch_bf16: bool | None


@dataclass(frozen=True)
class Differences:
    """The worst of some comparisons.

    Attributes:
        graphs: files that were compared; empty where it was the model itself.
        profiles: that were compared; empty for a model without.
        images: of a comparison, the most.
        max_difference: largest difference of an output.
        relative_difference: how far the outputs of a typical image are off, as a share of their size.
        agreement: the smallest share of pairs that were routed alike; None for a model without profiles.
    """

    graphs: tuple[str, ...]
    profiles: tuple[str, ...]
    images: int | None
    max_difference: float | None
    relative_difference: float | None
    agreement: float | None


@dataclass(frozen=True)
class Validation:
    """What was compared when the bundle was exported.

    Attributes:
        atol: largest `max_difference` that the graphs might have; None for no such limit.
        relative_limit: largest `relative_difference` that they might have; None for no such limit.
        graphs: ONNX Runtime on each graph against the torch model of the same precision.
        from_fp32: that torch model against the one in float32; None for fp32.
        tensorrt: graphs for TensorRT in fp16 or bf16 against torch; None where there are none.
    """

    atol: float | None
    relative_limit: float | None
    graphs: Differences
    from_fp32: Differences | None
    tensorrt: Differences | None


def read_origin(manifest: Manifest) -> Origin:
    """What `source` and `producer` say."""
    source, producer = _object(manifest.raw.get("source")), _object(manifest.raw.get("producer"))
    return Origin(
        _text(source.get("name")),
        _text(source.get("format")),
        _text(source.get("sha256")),
        _text(producer.get("name")),
        _text(producer.get("version")),
    )


def read_description(manifest: Manifest) -> Description:
    """What `model` says."""
    model = manifest.model
    moe = _object(model.get("moe"))
    flag = moe.get("dispatch_bf16")
    return Description(
        patch_size=_size(model.get("patch_size")),
        num_layers=_whole(model.get("num_layers")),
        hidden_size=_whole(model.get("hidden_size")),
        num_heads=_whole(model.get("num_heads")),
        mlp_dim=_whole(model.get("mlp_dim")),
        classifier=_text(model.get("classifier")),
        num_classes=_whole(model.get("num_classes")),
        expert_mlp_dim=_whole(moe.get("mlp_dim")),
        dispatch_bf16=flag if isinstance(flag, bool) else None,
    )


def read_flops(manifest: Manifest) -> dict[str, int]:
    """FLOPs per image by profile, and of the "dense" model of the same size, as far as `flops_per_image` says."""
    flops = _object(manifest.raw.get("flops_per_image"))
    return {name: whole for name, value in flops.items() if (whole := _whole(value))}


def read_validation(manifest: Manifest) -> Validation | None:
    """What `validation` says; None where it holds no comparison, and so where nothing was validated."""
    validation = _object(manifest.raw.get("validation"))
    graphs = _differences(validation.get("comparisons"))
    if graphs is None:
        return None
    return Validation(
        _number(validation.get("atol")),
        _number(validation.get("relative_limit")),
        graphs,
        _differences(validation.get("distance_from_fp32")),
        _differences(validation.get("tensorrt")),
    )


def _differences(entries: Any) -> Differences | None:
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not found:
        return None

    def texts(key: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for entry in found if (text := _text(entry.get(key))) is not None))

    def most(key: str) -> float | None:
        return max((number for entry in found if (number := _number(entry.get(key))) is not None), default=None)

    routed = [entry for entry in found if _text(entry.get("profile")) is not None]
    return Differences(
        texts("graph"),
        texts("profile"),
        max((whole for entry in found if (whole := _whole(entry.get("images"))) is not None), default=None),
        most("max_difference"),
        most("relative_difference"),
        min((share for entry in routed for share in _shares(entry.get("agreement"))), default=None),
    )


def _shares(value: Any) -> Iterator[float]:
    """A share, or those of the blocks."""
    for share in value.values() if isinstance(value, dict) else [value]:
        if (number := _number(share)) is not None:
            yield number


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_WHOLE else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and value >= 0 else None


def _size(value: Any) -> tuple[int, int] | None:
    whole = [_whole(item) for item in value] if isinstance(value, list) else []
    match whole:
        case [int(height), int(width)]:
            return height, width
    return None
