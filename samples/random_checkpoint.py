"""Writes a V-MoE of a standard size with random weights, as a checkpoint in the official format.

    python samples/random_checkpoint.py b16 --variant B/16 --experts 8 --layers "Every 2"

makes b16.index, b16.data-*, and b16.json with the matching model config. The weights are noise, but shapes,
sizes and speed are those of a trained model. The format is that of google-research/vmoe,
vmoe/checkpoints/{partitioned,serialization,types}.py. Memory holds one tensor at a time.
"""

from __future__ import annotations

import json
import math
import re
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgpack
import numpy as np

from vmoe_export.model.model_config import ModelConfig, MoeConfig, TopK
from vmoe_export.model.parameters import parameter_shapes

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
Box = tuple[tuple[int, int], ...]  # (start, stop) per dimension
MakeTensor = Callable[[str, Shape], Array]

NDARRAY, ND_SLICE, INDEX_INFO = 1, 6, 8  # msgpack extension types
CHUNKS_KEY = "__msgpack_array_chunk_a87ca2__"
INDEX_VERSION = "20220622"
EXPERT_TENSORS = "/Moe/Mlp/"
MAX_SUBCHUNK_BYTES = 2**30
MAX_SHARDS = 500  # all are open at once
FLOAT_BYTES = 4
STDDEV = 0.02


class Variant(NamedTuple):
    """Sizes of a standard model (official configs/vmoe_paper); `patch` is the side of a patch in pixels."""

    hidden_size: int
    num_layers: int
    mlp_dim: int
    num_heads: int
    patch: int


VARIANTS = {
    "S/32": Variant(512, 8, 2048, 8, 32),
    "B/32": Variant(768, 12, 3072, 12, 32),
    "B/16": Variant(768, 12, 3072, 12, 16),
    "L/32": Variant(1024, 24, 4096, 16, 32),
    "L/16": Variant(1024, 24, 4096, 16, 16),
    "H/14": Variant(1280, 32, 5120, 16, 14),
}


class CheckpointWriteError(Exception):
    """The checkpoint could not be written. Carries one sentence for the person who asked for it."""


class Chunk(NamedTuple):
    """A part of a tensor that is stored in one piece, and the shard that it is in."""

    box: Box
    shard: int


def moe_layers(placement: str, num_layers: int) -> tuple[int, ...]:
    """The MoE blocks: of "Every n" n-1, 2n-1, ...; of "Last n" the last n of the odd blocks 1, 3, 5, ...

    Raises:
        ValueError: the text is neither, or the model has no such blocks.

    Example:
        >>> moe_layers("Every 2", 8), moe_layers("Last 2", 8)
        ((1, 3, 5, 7), (5, 7))
    """
    match = re.fullmatch(r"(every|last) ([1-9]\d{0,3})", placement.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"'{placement}' is not of the form 'Every 2' or 'Last 2'")
    count, odd = int(match[2]), tuple(range(1, num_layers, 2))
    if match[1].lower() == "every":
        layers = tuple(range(count - 1, num_layers, count))
    else:
        layers = odd[-count:] if count <= len(odd) else ()
    if not layers:
        raise ValueError(f"'{placement}' asks for more blocks than the {num_layers} of this model allow")
    return layers


def describe(
    variant: Variant,
    image_size: int,
    num_classes: int,
    experts: int,
    layers: Sequence[int],
    representation_size: int | None = None,
) -> ModelConfig:
    """The model of a variant for square images of `image_size` pixels; without `layers` it is a plain ViT."""
    moe = MoeConfig((experts,) * len(layers), variant.mlp_dim, tuple(layers), True, TopK(min(2, experts), 1.05, "ceil", 4))
    return ModelConfig(
        image_size=(image_size, image_size),
        channels=3,
        patch_size=(variant.patch, variant.patch),
        hidden_size=variant.hidden_size,
        num_layers=variant.num_layers,
        mlp_dim=variant.mlp_dim,
        num_heads=variant.num_heads,
        classifier="token",
        position_emb="learned",
        position_temperature=10_000.0,
        attention_qk_norm=False,
        representation_size=representation_size,
        num_classes=num_classes,
        moe=moe if layers else None,
    )


def official_config(model: ModelConfig) -> dict[str, Any]:
    """The config of a model under the official field names, with the settings of configs/vmoe_paper."""
    encoder: dict[str, Any] = {field: getattr(model, field) for field in ("num_layers", "mlp_dim", "num_heads")}
    if moe := model.moe:
        routing = moe.routing
        assert isinstance(routing, TopK)
        dispatcher = {
            "name": "einsum",
            "bfloat16": moe.dispatch_bf16,
            "capacity_factor": routing.capacity_ratio,
            "capacity_multiple_of": routing.capacity_multiple_of,
            "batch_priority": False,
        }
        encoder["moe"] = {
            "num_experts": moe.num_experts,
            "layers": list(moe.layers),
            "group_size": 8 * model.num_tokens,
            "split_rngs": False,
            "router": {"num_selected_experts": routing.k, "noise_std": 1.0, "dispatcher": dispatcher},
        }
    return {
        "name": "VisionTransformerMoe",
        "num_classes": model.num_classes,
        "patch_size": list(model.patch_size),
        "hidden_size": model.hidden_size,
        "classifier": model.classifier,
        "representation_size": model.representation_size,
        "encoder": encoder,
    }


def random_weights(seed: int) -> MakeTensor:
    """Makes float32 tensors from N(0, 0.02), LayerNorm scales from 1 + N(0, 0.02).

    A tensor depends on the seed and its name alone.
    """

    def make(name: str, shape: Shape) -> Array:
        tensor = np.random.default_rng([seed, *name.encode()]).standard_normal(shape, np.float32)
        tensor *= np.float32(STDDEV)
        if name.endswith("/scale"):
            tensor += np.float32(1)
        return tensor

    return make


def write_checkpoint(
    prefix: Path,
    shapes: Mapping[str, Shape],
    make_tensor: MakeTensor,
    shards: int,
    *,
    config: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Writes PREFIX.index and PREFIX.data-*, and PREFIX.json where there is a config; all of them or none.

    Args:
        prefix: path of the checkpoint without an ending.
        shapes: shape of each tensor, by official parameter name.
        make_tensor: gives the float32 tensor of a name and shape; called once for each.
        shards: number of data files.
        config: an official model config.
        force: replace a checkpoint that is already there.

    Raises:
        CheckpointWriteError: the files exist, or can't be written.
    """
    parent = prefix.absolute().parent
    if not parent.is_dir():
        raise CheckpointWriteError(f"{parent} is not there; make the folder first")
    if (present := _files_of(prefix)) and not force:
        raise CheckpointWriteError(f"{present[0]} exists; --force replaces it")
    chunks = plan_chunks(shapes, shards)
    # The index makes a checkpoint of the files: it goes first and comes last.
    for old in present:
        old.unlink()
    try:
        _write_shards(prefix, shapes, chunks, make_tensor, shards)
        if config is not None:
            Path(f"{prefix}.json").write_text(json.dumps(config, indent=1) + "\n")
        Path(f"{prefix}.index").write_bytes(_index(shapes, chunks, shards))
    except BaseException as error:
        for path in _files_of(prefix):
            path.unlink()
        if isinstance(error, OSError):
            raise CheckpointWriteError(f"{prefix} could not be written: {error.strerror or error}") from None
        raise


def plan_chunks(shapes: Mapping[str, Shape], shards: int) -> dict[str, list[Chunk]]:
    """The chunks of each tensor, in the order of array ids: depth first, keys of each level sorted as text.

    Expert tensors are cut into one chunk per expert, as a mesh with one expert per device leaves them. Each
    chunk goes to the shard that is smallest so far.
    """
    filled = [0] * shards
    plan: dict[str, list[Chunk]] = {}
    for name in sorted(shapes, key=lambda name: name.split("/")):
        whole = tuple((0, extent) for extent in shapes[name])
        experts = shapes[name][0] if EXPERT_TENSORS in name else 0
        plan[name] = []
        for box in [((e, e + 1), *whole[1:]) for e in range(experts)] or [whole]:
            shard = min(range(shards), key=filled.__getitem__)
            filled[shard] += FLOAT_BYTES * math.prod(stop - start for start, stop in box)
            plan[name].append(Chunk(box, shard))
    return plan


def _write_shards(
    prefix: Path,
    shapes: Mapping[str, Shape],
    chunks: Mapping[str, Sequence[Chunk]],
    make_tensor: MakeTensor,
    shards: int,
) -> None:
    """Writes all data files side by side, since the chunks of one tensor go to several of them."""
    packer = msgpack.Packer()
    used = [{chunk.shard for chunk in parts} for parts in chunks.values()]
    with ExitStack() as stack:
        files = [
            stack.enter_context(Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").open("wb")) for shard in range(shards)
        ]
        for shard, file in enumerate(files):
            file.write(packer.pack_map_header(1 + sum(shard in where for where in used)))
            file.write(msgpack.packb(CHUNKS_KEY) + msgpack.packb(True))
        for array_id, (name, parts) in enumerate(chunks.items()):
            tensor = make_tensor(name, shapes[name])
            if tensor.shape != shapes[name] or tensor.dtype != np.float32:
                raise ValueError(f"tensor {name} is {tensor.dtype}{tensor.shape}, not float32{shapes[name]}")
            for shard in sorted(used[array_id]):
                mine = [part for part in parts if part.shard == shard]
                files[shard].write(msgpack.packb(str(array_id)) + packer.pack_array_header(len(mine)))
                for part in mine:
                    data = tensor[tuple(slice(start, stop) for start, stop in part.box)]
                    files[shard].writelines(_encode_chunk(data, part.box))


def _encode_chunk(data: Array, box: Box) -> Iterator[bytes | memoryview]:
    """A chunk as msgpack, [[sub-chunk, ...], slice]; the data itself is passed on without a copy."""
    flat = np.ascontiguousarray(data, "<f4").reshape(-1)
    step = MAX_SUBCHUNK_BYTES // FLOAT_BYTES
    packer = msgpack.Packer()
    yield packer.pack_array_header(2) + packer.pack_array_header(math.ceil(flat.size / step))
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        head = packer.pack_array_header(3) + msgpack.packb([part.size]) + msgpack.packb("float32")
        head += _sized_header(part.nbytes, (0xC4, 0xC5, 0xC6))
        yield _sized_header(len(head) + part.nbytes, (0xC7, 0xC8, 0xC9)) + bytes([NDARRAY]) + head
        yield part.data.cast("B")
    yield msgpack.packb(msgpack.ExtType(ND_SLICE, _nd_slice(box)))


def _sized_header(size: int, codes: tuple[int, int, int]) -> bytes:
    """The shortest msgpack header of `size` bytes; `codes` are its forms with a u8, u16 and u32 length."""
    form = 0 if size < 2**8 else 1 if size < 2**16 else 2
    return struct.pack(f">B{'BHI'[form]}", codes[form], size)


def _nd_slice(box: Box) -> bytes:
    return bytes(msgpack.packb([msgpack.packb((start, stop, None)) for start, stop in box]))


def _index(shapes: Mapping[str, Shape], chunks: Mapping[str, Sequence[Chunk]], shards: int) -> bytes:
    tree: dict[str, Any] = {}
    for name, parts in chunks.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        shaped = msgpack.packb((shapes[name], "float32", False, {}))
        boxes, where = [_nd_slice(part.box) for part in parts], [part.shard for part in parts]
        node[leaf] = msgpack.ExtType(INDEX_INFO, msgpack.packb((shaped, boxes, where)))
    return bytes(msgpack.packb({"shard_count": shards, "index": tree, "version": INDEX_VERSION}))


def _files_of(prefix: Path) -> list[Path]:
    """The files of a checkpoint, whatever its number of shards; the index comes first."""
    name = re.compile(re.escape(prefix.name) + r"\.(index|json|data-\d{5}-of-\d{5})")
    found = sorted(path for path in prefix.absolute().parent.iterdir() if name.fullmatch(path.name))
    return sorted(found, key=lambda path: path.suffix != ".index")


@click.command(help="Writes a V-MoE of random weights to PREFIX.index, PREFIX.data-* and PREFIX.json.")
@click.argument("prefix", type=click.Path(path_type=Path))
@click.option("--variant", type=click.Choice(list(VARIANTS)), default="B/16", show_default=True)
@click.option("--experts", type=click.IntRange(1, 4096), help="Experts per MoE layer.  [default: 8]")
@click.option("--layers", help="Which blocks are MoE: 'Every N' or 'Last N'.  [default: Every 2]")
@click.option("--dense", is_flag=True, help="A plain ViT, without MoE layers.")
@click.option("--image-size", type=click.IntRange(1, 8192), default=224, show_default=True, help="Pixels.")
@click.option("--num-classes", type=click.IntRange(1, 1_000_000), default=1000, show_default=True)
@click.option("--representation-size", type=click.IntRange(1, 65_536), help="Size of a pre_logits layer.  [default: none]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--shards", type=click.IntRange(1, MAX_SHARDS), default=2, show_default=True, help="Data files.")
@click.option("--force", is_flag=True, help="Replace a checkpoint that is already there.")
def command(prefix: Path, variant: str, **given: Any) -> None:
    sizes, experts, shards = VARIANTS[variant], given["experts"], given["shards"]
    if given["dense"] and (experts or given["layers"]):
        raise click.UsageError("--dense makes a model without MoE layers: leave out --experts and --layers")
    if given["image_size"] < sizes.patch:
        raise click.UsageError(f"--image-size {given['image_size']} is smaller than one patch of {variant}")
    if not prefix.name:
        raise click.UsageError(f"'{prefix}' is not a name for a checkpoint")
    try:
        layers = () if given["dense"] else moe_layers(given["layers"] or "Every 2", sizes.num_layers)
    except ValueError as error:
        raise click.UsageError(f"--layers: {error}") from None
    classes, representation = given["num_classes"], given["representation_size"]
    model = describe(sizes, given["image_size"], classes, experts or 8, layers, representation)
    shapes, config = parameter_shapes(model), official_config(model)
    write_checkpoint(prefix, shapes, random_weights(given["seed"]), shards, config=config, force=given["force"])
    size = FLOAT_BYTES * sum(map(math.prod, shapes.values()))
    click.echo(f"{prefix}: {len(shapes)} tensors, {size / 1e6:,.0f} MB, {shards} shards")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, 2 for a mistake in the call, 1 for everything else."""
    try:
        command.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        print(f"error: {error.format_message()}", file=sys.stderr)
        return error.exit_code
    except (CheckpointWriteError, click.Abort) as error:
        print(f"error: {str(error) or 'stopped'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
