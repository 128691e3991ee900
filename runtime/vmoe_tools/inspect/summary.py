"""The summary of a bundle. It is made without loading the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from vmoe_runtime.bundle.manifest import WEIGHTS_NAME, Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES
from vmoe_tools.inspect.tensors import ListedTensor, read_tensors
from vmoe_tools.machine import describe_backends

T = TypeVar("T")

_MOST = 2**53  # largest number accepted in fields that the manifest reader doesn't check
_DESCRIPTION: Mapping[str, type] = {
    "num_layers": int, "hidden_size": int, "num_heads": int, "mlp_dim": int, "classifier": str, "num_classes": int,
}  # fmt: skip


def summarize(bundle: Bundle, *, verified: bool) -> dict[str, Any]:
    """Collect everything about an open bundle as plain values for JSON. Unknown and inapplicable values are None.

    Args:
        bundle: the open bundle.
        verified: whether the SHA-256 hashes of the bundle's files were checked.

    Returns:
        - `bundle`, `format_version`, `verified`, `kind`, `ensemble_size`, `precision`, `batch_multiple`
        - `model`: sizes, named as in the official configs. It also contains `expert_mlp_dim` and `dispatch_bf16` of the
          experts.
        - `parameters`: numbers of parameters and tensors:
            - `all`: all parameters
            - `k`: the first profile's `k`
            - `per_token`: the largest number of parameters that a token uses, at this `k`
            - `tensors`: number of tensors
        - `routing`: `kind`, `layers`, `num_experts`, `layer_experts`, `slots_per_expert` (Soft MoE), `group`,
          `group_tokens`, `rounding`, `capacity_multiple_of`, `settings`
        - `image`, `output`: input and main output of the graph
        - `outputs`: shape of each output for one image, by name
        - `profiles`: for each profile, its settings, its slots as `capacity`, `flops_per_image`, and `of_dense`
          (`flops_per_image` as a share of the dense model's FLOPs)
        - `dense_flops_per_image`: FLOPs of the dense model of the same size
        - `tensorrt`: `precision` and `graphs`
        - `validation`: `atol`, `relative_limit`, and the worst results of each kind of comparison: `graphs` (compared with
          the reference), `from_fp32`, and `tensorrt`
        - `origin`: `name`, `format` and `sha256` of the checkpoint, `producer` and `producer_version` of the bundle
        - `files`, `bytes`, `machine` (see `describe_backends`), `tensors` (name, dtype, shape, bytes)

    Raises:
        BundleError: the weights file can't be read, or its header is invalid.
    """
    manifest = bundle.manifest
    with bundle.open_weights() as weights:
        tensors = read_tensors(weights, manifest.files[WEIGHTS_NAME].size)
    raw, rules, image, tensorrt = manifest.raw, manifest.rules, manifest.input, manifest.tensorrt
    dense = _get(raw, int, "flops_per_image", "dense") or None
    return {
        "bundle": str(bundle.path),
        "format_version": manifest.raw["format_version"],
        "verified": verified,
        "kind": KIND_NAMES[rules.kind],
        "ensemble_size": manifest.ensemble_size,
        "model": _model(manifest),
        "parameters": _parameters(tensors, manifest),
        "precision": manifest.precision,
        "routing": _routing(manifest),
        "batch_multiple": manifest.batch_multiple,
        "image": {
            **{name: getattr(image, name) for name in ("dtype", "height", "width", "channels")},
            "preprocessing": str(image.steps).split("|"),
        },
        "output": {"name": manifest.output, "shape": manifest.output_shape, "class_names": manifest.class_names},
        "outputs": dict(manifest.answers),
        "profiles": [_profile(profile, manifest, dense) for profile in manifest.profiles.values()],
        "dense_flops_per_image": dense,
        "tensorrt": {"precision": tensorrt.precision, "graphs": dict(tensorrt.graphs)} if tensorrt else None,
        "validation": _validation(raw),
        "origin": {
            **{name: _get(raw, str, "source", name) for name in ("name", "format", "sha256")},
            "producer": _get(raw, str, "producer", "name"),
            "producer_version": _get(raw, str, "producer", "version"),
        },
        "files": [{"name": name, "bytes": each.size, "sha256": each.sha256} for name, each in manifest.files.items()],
        "bytes": sum(each.size for each in manifest.files.values()),
        "machine": describe_backends(bundle),
        "tensors": [asdict(tensor) for tensor in tensors],
    }


def _model(manifest: Manifest) -> dict[str, Any]:
    model, size = manifest.model, _get(manifest.model, list, "patch_size") or []
    return {
        "patch_size": size if len(size) == 2 and all(type(side) is int for side in size) else None,
        **{name: _get(model, kind, name) for name, kind in _DESCRIPTION.items()},
        "expert_mlp_dim": _get(model, int, "moe", "mlp_dim"),
        "dispatch_bf16": _get(model, bool, "moe", "dispatch_bf16"),
    }


def _parameters(tensors: tuple[ListedTensor, ...], manifest: Manifest) -> dict[str, Any]:
    parameters = [tensor for tensor in tensors if not tensor.is_scale]
    count = sum(tensor.elements for tensor in parameters)
    profile = next(iter(manifest.profiles.values()), None)
    k = profile.k if profile else None
    unused: int | None = 0
    if manifest.moe_layers and manifest.rules.kind != "soft":
        unused = _unused_by_a_token(parameters, manifest, k)
    return {"all": count, "per_token": None if unused is None else count - unused, "k": k, "tensors": len(tensors)}


def _unused_by_a_token(parameters: list[ListedTensor], manifest: Manifest, k: int | None) -> int | None:
    """Return how many of the experts' parameters a token doesn't use; None if this number isn't known."""
    if k is None or not manifest.moe_layers:
        return None
    unused = 0
    for layer, experts in zip(manifest.moe_layers, manifest.rules.experts, strict=True):
        own = [tensor for tensor in parameters if tensor.name.startswith(f"Encoder/{layer}/Moe/Mlp/")]
        if not own or any(tensor.shape[:1] != (experts,) for tensor in own):
            return None
        unused += sum(tensor.elements // experts * (experts - k) for tensor in own)
    return unused


def _routing(manifest: Manifest) -> dict[str, Any] | None:
    rules, stored = manifest.rules, manifest.raw.get("routing")
    if stored is None:
        return None
    return {
        "kind": rules.kind,
        "layers": manifest.moe_layers,
        "num_experts": rules.num_experts,
        "layer_experts": rules.experts,
        "slots_per_expert": stored.get("slots_per_expert"),
        "group": manifest.group,
        "group_tokens": rules.group_tokens,
        "rounding": stored.get("rounding"),
        "capacity_multiple_of": stored.get("capacity_multiple_of"),
        "settings": rules.settings,
    }


def _profile(profile: Profile, manifest: Manifest, dense: int | None) -> dict[str, Any]:
    own = _get(manifest.raw, int, "flops_per_image", profile.name) or None
    return {
        **profile.entry(),
        "flops_per_image": own,
        "of_dense": own / dense if own and dense else None,
    }


def _validation(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the results of the validation at export; None if the bundle was not validated."""
    graphs = _worst(_get(raw, list, "validation", "comparisons"))
    if graphs is None:
        return None
    return {
        "atol": _number(raw["validation"].get("atol")),
        "relative_limit": _number(raw["validation"].get("relative_limit")),
        "graphs": graphs,
        "from_fp32": _worst(_get(raw, list, "validation", "distance_from_fp32")),
        "tensorrt": _worst(_get(raw, list, "validation", "tensorrt")),
    }


def _worst(entries: list[Any] | None) -> dict[str, Any] | None:
    """Return the worst results in `entries`.

    They are the largest differences, and the smallest share of equally routed pairs.
    """
    found = [entry for entry in entries or [] if isinstance(entry, dict)]
    if not found:
        return None

    def numbers(key: str) -> Iterator[float]:
        """Yield the numbers under `key` in all entries. An entry may contain one number, or a number for each block."""
        for entry in found:
            value = entry.get(key)
            for part in value.values() if isinstance(value, dict) else [value]:
                if (number := _number(part)) is not None:
                    yield number

    def texts(key: str) -> list[str]:
        return list(dict.fromkeys(text for entry in found if (text := _get(entry, str, key)) is not None))

    profiles = texts("profile")
    return {
        "graphs": texts("graph"),
        "profiles": profiles,
        "images": max((images for entry in found if (images := _get(entry, int, "images")) is not None), default=None),
        "max_difference": max(numbers("max_difference"), default=None),
        "relative_difference": max(numbers("relative_difference"), default=None),
        "agreement": min(numbers("agreement"), default=None) if profiles else None,
    }


def _get(raw: Any, kind: type[T], *keys: str) -> T | None:
    """Return the value under nested `keys` in an unchecked part of the manifest. Return None if it is not a `kind`."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw if type(raw) is kind and (not isinstance(raw, int) or 0 <= raw <= _MOST) else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value <= _MOST else None
