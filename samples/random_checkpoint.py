"""Write a V-MoE of a standard size with random weights, as a safetensors file with official names.

    python samples/random_checkpoint.py b16 --variant B/16 --experts 8 --layers "Every 2"

This command writes b16.safetensors. It also writes b16.json, which contains the part of the model config that can't be read
from the tensors. The weights are random. The tensor shapes, the file size and the model's speed are those of a trained
model. Only one tensor at a time is in memory.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import numpy as np

from vmoe_export.bundle.weights_file import layout
from vmoe_export.model.model_config import ModelConfig, MoeConfig, TopK
from vmoe_export.model.parameters import StoredTensor, parameter_shapes
from vmoe_tools.output import write_file, write_large_file

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
MakeTensor = Callable[[str, Shape], Array]

STDDEV = 0.02


class Variant(NamedTuple):
    """The sizes of a standard model, as in the official configs/vmoe_paper. `patch` is the side of a patch in pixels."""

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


def moe_layers(placement: str, num_layers: int) -> tuple[int, ...]:
    """Return the indices of the MoE blocks.

    "Every n" means blocks n-1, 2n-1, ...; "Last n" means the last n of the odd blocks 1, 3, 5, ...

    Raises:
        ValueError: `placement` has neither form, or the model does not have such blocks.

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
    """Return the config of a variant for square images with a side of `image_size` pixels.

    If `layers` is empty, the model is a plain ViT.
    """
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
    """Return the config fields that can't be read from the tensors.

    The field names are the official ones. If `model` does not contain a value, it comes from the official
    configs/vmoe_paper.
    """
    encoder: dict[str, Any] = {"num_heads": model.num_heads}
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
        router = {"num_selected_experts": routing.k, "noise_std": 1.0, "dispatcher": dispatcher}
        encoder["moe"] = {"group_size": 8 * model.num_tokens, "router": router}
    return {"name": "VisionTransformerMoe", "classifier": model.classifier, "encoder": encoder}


def random_weights(seed: int) -> MakeTensor:
    """Return a function that makes random float32 tensors from their name and shape.

    The values are drawn from N(0, 0.02). For LayerNorm scales, they are drawn from 1 + N(0, 0.02). A tensor's values depend
    only on `seed`, its name and its shape.
    """

    def make(name: str, shape: Shape) -> Array:
        tensor = np.random.default_rng([seed, *name.encode()]).standard_normal(shape, np.float32)
        tensor *= np.float32(STDDEV)
        if name.endswith("/scale"):
            tensor += np.float32(1)
        return tensor

    return make


def write_checkpoint(path: Path, shapes: Mapping[str, Shape], make_tensor: MakeTensor) -> None:
    """Write a safetensors file. If this fails, no partial file is left.

    Args:
        path: path of the file.
        shapes: shape of each tensor, by official parameter name.
        make_tensor: function that returns the float32 tensor for a name and shape. It is called once per tensor.

    Raises:
        click.ClickException: the file can't be written.
    """
    header, spans = layout({name: StoredTensor(shape, "F32") for name, shape in shapes.items()})

    def write(file: IO[bytes]) -> None:
        file.write(header)
        for name in spans:
            file.write(np.ascontiguousarray(make_tensor(name, shapes[name]), "<f4").data)

    write_large_file(path, write)


@click.command(
    help="Write a V-MoE with random weights to PREFIX.safetensors, and its config to PREFIX.json. PREFIX may include the "
    "suffix .safetensors."
)
@click.argument("prefix", type=click.Path(path_type=Path))
@click.option("--variant", type=click.Choice(list(VARIANTS)), default="B/16", show_default=True)
@click.option("--experts", type=click.IntRange(1, 4096), help="Experts per MoE layer.  [default: 8]")
@click.option("--layers", help="Blocks with experts: 'Every N' or 'Last N'.  [default: Every 2]")
@click.option("--dense", is_flag=True, help="Write a plain ViT, without MoE layers.")
@click.option("--image-size", type=click.IntRange(1, 8192), default=224, show_default=True, help="Pixels.")
@click.option("--num-classes", type=click.IntRange(1, 1_000_000), default=1000, show_default=True)
@click.option("--representation-size", type=click.IntRange(1, 65_536), help="Size of a pre_logits layer.  [default: none]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--force", is_flag=True, help="Replace an existing checkpoint.")
def command(prefix: Path, variant: str, **given: Any) -> None:
    sizes, experts = VARIANTS[variant], given["experts"]
    prefix = prefix.with_suffix("") if prefix.suffix == ".safetensors" else prefix
    target, beside = (Path(f"{prefix}.{suffix}") for suffix in ("safetensors", "json"))
    if given["dense"] and (experts or given["layers"]):
        raise click.UsageError("--dense makes a model without MoE layers; omit --experts and --layers")
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
    if (present := [path for path in (target, beside) if path.exists()]) and not given["force"]:
        raise click.ClickException(f"{present[0]} exists; --force replaces it")
    shapes = parameter_shapes(model)
    write_checkpoint(target, shapes, random_weights(given["seed"]))
    write_file(beside, json.dumps(official_config(model), indent=1) + "\n")
    click.echo(f"{target}: {len(shapes)} tensors, {target.stat().st_size / 1e6:,.0f} MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0 for success, 2 for a usage error, or 1 for any other error."""
    try:
        command.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        print(f"error: {error.format_message()}", file=sys.stderr)
        return error.exit_code
    except click.Abort:
        print("error: stopped", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
