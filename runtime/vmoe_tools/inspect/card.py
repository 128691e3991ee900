"""The card of a bundle: everything that is shown of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vmoe_runtime.bundle.manifest import WEIGHTS_NAME, Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES, RoutingRules, SoftRules
from vmoe_tools.inspect.machine import Machine, look_around
from vmoe_tools.inspect.recorded import (
    Description,
    Origin,
    Validation,
    read_description,
    read_flops,
    read_origin,
    read_validation,
)
from vmoe_tools.inspect.tensors import ListedTensor, read_tensors


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has. Scales of int8 kernels are none.

    Attributes:
        all: those of the file.
        per_token: those that a token meets at most: all but the experts that it doesn't go to, at `k` experts in each MoE
            layer. All of them in a dense ViT and a Soft MoE; None where experts choose, or the tensors don't tell.
        k: experts per token of the first profile; None where a token has no such number.
        tensors: of the file, scales among them.
    """

    all: int
    per_token: int | None
    k: int | None
    tensors: int


@dataclass(frozen=True)
class CardRouting:
    """How tokens come to experts.

    Attributes:
        kind: "top-k", "experts-choice" or "soft".
        layers: names of the MoE blocks.
        num_experts: of each of them, of all members of an ensemble.
        slots_per_expert: of a Soft MoE, else None.
        group: as it was asked for: "image", "batch", a number of images or "tokens:S".
        group_tokens: tokens of a group, of all members of an ensemble.
        rounding, capacity_multiple_of: how a ratio becomes places; None for a Soft MoE.
        settings: what a call may set.
    """

    kind: str
    layers: tuple[str, ...]
    num_experts: int
    slots_per_expert: int | None
    group: str | None
    group_tokens: int
    rounding: str | None
    capacity_multiple_of: int | None
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Image:
    """What the graph input `image` takes: dtype[N, height, width, channels], float32 in [-1, 1] or uint8.

    Attributes:
        dtype, height, width, channels: of it.
        preprocessing: the steps that make such an image of a picture.
    """

    dtype: str
    height: int
    width: int
    channels: int
    preprocessing: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """What a graph gives: float32[N, *shape].

    Attributes:
        name: "logits", "members" or "features".
        shape: of an image's.
        class_names: None where the bundle has none.
    """

    name: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...] | None


@dataclass(frozen=True)
class ProfileCard:
    """A stored profile. What its routing kind, or its format version, doesn't have is None.

    Attributes:
        name: such as "c0.3-k1".
        capacity_ratio: as it was asked for.
        effective_ratio: as it is after rounding to whole places.
        k: experts per token.
        bpr: True for Batch Priority Routing, False for vanilla order.
        pool: whether the places of a group are one pool.
        max_experts: experts that a group may use.
        capacity: places per expert and group, for each MoE layer.
        flops_per_image: None where the manifest doesn't say.
        of_dense: that as a share of the FLOPs of the dense model of the same size; None where the manifest doesn't say.
    """

    name: str
    capacity_ratio: float
    effective_ratio: float
    k: int | None
    bpr: bool | None
    pool: bool | None
    max_experts: int | None
    capacity: tuple[int, ...]
    flops_per_image: int | None
    of_dense: float | None


@dataclass(frozen=True)
class File:
    """A file of the bundle: its name, bytes and SHA-256 (hex) by the manifest."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorRt:
    """What was exported for TensorRT: the type of large products, and graph file by profile or by "model"."""

    precision: str
    graphs: Mapping[str, str]


@dataclass(frozen=True)
class Card:
    """Everything that is shown of a bundle. `to_json` has the same names.

    Attributes:
        bundle: the folder, as it was given.
        format_version: of the bundle, 1 to 3.
        verified: whether the SHA-256 of every file was compared; sizes always are.
        kind: what the model is called: "V-MoE", "V-MoE of experts choice", "Soft MoE" or "dense ViT".
        ensemble_size: members of an ensemble of experts (E3); 1 for every other model.
        model: the model as its exporter described it.
        parameters: how many there are.
        precision: what large products are computed in: "fp32", "bf16", "int8" or "bf16-experts".
        routing: None for a dense ViT.
        batch_multiple: batches are a multiple of this many images.
        image: the input.
        output: the output.
        profiles: the first is the default; none for a dense ViT and a Soft MoE.
        dense_flops_per_image: of the dense model of the same size; None where the manifest doesn't say.
        tensorrt: None where the bundle has no graphs for TensorRT.
        validation: None where nothing was compared.
        origin: checkpoint and exporter.
        files: in the order of the manifest, which is not among them.
        bytes: of all these files.
        machine: what runs here.
        tensors: in the order of the file.
    """

    bundle: str
    format_version: int
    verified: bool
    kind: str
    ensemble_size: int
    model: Description
    parameters: Parameters
    precision: str
    routing: CardRouting | None
    batch_multiple: int
    image: Image
    output: Output
    profiles: tuple[ProfileCard, ...]
    dense_flops_per_image: int | None
    tensorrt: TensorRt | None
    validation: Validation | None
    origin: Origin
    files: tuple[File, ...]
    bytes: int
    machine: Machine
    tensors: tuple[ListedTensor, ...]

    def to_json(self) -> dict[str, Any]:
        """The card ready for JSON: an object for each class, a key for each attribute; None is null, a tuple a list."""
        return asdict(self)


def make_card(bundle: Bundle, *, verified: bool) -> Card:
    """Collects everything of an open bundle.

    Args:
        bundle: what to show.
        verified: whether its SHA-256s were compared.

    Raises:
        BundleError: the weights file has no readable header, or can't be read.
    """
    manifest = bundle.manifest
    with bundle.open_weights() as weights:
        tensors = read_tensors(weights, manifest.files[WEIGHTS_NAME].size)
    flops = read_flops(manifest)
    rules, tensorrt = manifest.rules, manifest.tensorrt
    return Card(
        bundle=str(bundle.path),
        format_version=manifest.raw["format_version"],
        verified=verified,
        kind=KIND_NAMES[rules.kind] if rules else "dense ViT",
        ensemble_size=manifest.ensemble_size,
        model=read_description(manifest),
        parameters=_parameters(tensors, manifest),
        precision=manifest.precision,
        routing=_routing(rules, manifest) if rules else None,
        batch_multiple=manifest.batch_multiple,
        image=_image(manifest),
        output=Output(manifest.output, manifest.output_shape, manifest.class_names),
        profiles=tuple(_profile(profile, flops) for profile in manifest.profiles.values()),
        dense_flops_per_image=flops.get("dense"),
        tensorrt=TensorRt(tensorrt.precision, dict(tensorrt.graphs)) if tensorrt else None,
        validation=read_validation(manifest),
        origin=read_origin(manifest),
        files=tuple(File(name, record.size, record.sha256) for name, record in manifest.files.items()),
        bytes=sum(record.size for record in manifest.files.values()),
        machine=look_around(bundle),
        tensors=tensors,
    )


def _parameters(tensors: tuple[ListedTensor, ...], manifest: Manifest) -> Parameters:
    parameters = [tensor for tensor in tensors if not tensor.is_scale]
    count = sum(tensor.elements for tensor in parameters)
    profile = next(iter(manifest.profiles.values()), None)
    k = profile.k if profile else None
    per_token: int | None = count
    if manifest.rules is not None and not isinstance(manifest.rules, SoftRules):
        unused = _unused_by_a_token(parameters, manifest, k)
        per_token = None if unused is None else count - unused
    return Parameters(count, per_token, k, len(tensors))


def _unused_by_a_token(parameters: list[ListedTensor], manifest: Manifest, k: int | None) -> int | None:
    """Parameters of the experts that a token doesn't go to; None where that can't be told."""
    if k is None or manifest.rules is None:
        return None
    experts, unused = manifest.rules.num_experts, 0
    for layer in manifest.moe_layers:
        own = [tensor for tensor in parameters if tensor.name.startswith(f"Encoder/{layer}/Moe/Mlp/")]
        if not own or any(tensor.shape[:1] != (experts,) for tensor in own):
            return None
        unused += sum(tensor.elements // experts * (experts - k) for tensor in own)
    return unused


def _routing(rules: RoutingRules, manifest: Manifest) -> CardRouting:
    return CardRouting(
        kind=rules.kind,
        layers=manifest.moe_layers,
        num_experts=rules.num_experts,
        slots_per_expert=rules.slots_per_expert if isinstance(rules, SoftRules) else None,
        group=manifest.group,
        group_tokens=rules.group_tokens,
        rounding=None if isinstance(rules, SoftRules) else rules.rounding,
        capacity_multiple_of=None if isinstance(rules, SoftRules) else rules.capacity_multiple_of,
        settings=rules.settings,
    )


def _image(manifest: Manifest) -> Image:
    image = manifest.input
    return Image(image.dtype, image.height, image.width, image.channels, tuple(str(image.steps).split("|")))


def _profile(profile: Profile, flops: Mapping[str, int]) -> ProfileCard:
    own, dense = flops.get(profile.name), flops.get("dense")
    return ProfileCard(
        name=profile.name,
        capacity_ratio=profile.capacity_ratio,
        effective_ratio=profile.effective_ratio,
        k=profile.k,
        bpr=profile.bpr,
        pool=profile.pool,
        max_experts=profile.max_experts,
        capacity=profile.slots,
        flops_per_image=own,
        of_dense=own / dense if own and dense else None,
    )
