"""Declare the command `vmoe prune`, which writes a checkpoint with fewer experts."""

from __future__ import annotations

import re
from pathlib import Path

import click
import numpy as np

from vmoe_export.checkpoint import BundleCheckpoint, Checkpoint
from vmoe_export.model.model_config import MoeConfig
from vmoe_export.opening import open_checkpoint
from vmoe_export.options.command_line import field_option
from vmoe_export.pruning.experts import choose_experts, class_token_use, prunable_moe, router_growth, write_pruned
from vmoe_measure.image_source import open_images
from vmoe_runtime import Engine
from vmoe_tools.options import CONTEXT, images_option, out_option, result_options
from vmoe_tools.output import check_output_file, people_stream, write_json, write_large_file
from vmoe_tools.program import printable

_SUFFIXES = (".vmoe", ".index", ".safetensors", ".pt", ".pth")
_GROWTH, _USE = "growth of the router's norm", "use by class tokens"


def _counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*", value):
        raise click.BadParameter(
            f"'{value:.40}' is not a number of experts, such as 4, or one for each MoE layer, such as 4,6."
        )
    return tuple(map(int, value.split(",")))


@click.command(context_settings=CONTEXT)
@click.argument("checkpoint", metavar="CKPT|BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--experts",
    "counts",
    required=True,
    callback=_counts,
    metavar="N[,N...]",
    help="Number of experts to keep in each MoE layer: one number for all layers, or one for each.",
)
@click.option(
    "--before",
    type=click.Path(path_type=Path),
    metavar="CKPT0",
    help="The pre-trained checkpoint that CKPT was fine-tuned from: keep the experts whose router column has grown most.",
)
@images_option
@field_option("ensemble_size")
@out_option("OUT.safetensors", "The checkpoint to write. Default: the name of CKPT with -pruned, in the current folder.")
@result_options
def prune(
    checkpoint: Path,
    counts: tuple[int, ...],
    before: Path | None,
    images: Path | None,
    ensemble_size: int | None,
    out: Path | None,
    json_target: str | None,
    quiet: bool,
) -> None:
    """Write a checkpoint with fewer experts in each MoE layer.

    With --before, keep the experts whose router columns have grown most in norm since the pre-trained checkpoint (arXiv
    2405.16646). Without --before, run BUNDLE on --images and keep the experts that class tokens use most. Such use is
    weaker evidence than growth. To make a bundle from the new checkpoint, use vmoe export.

    Example: vmoe prune finetuned --before vmoe_b16 --experts 4
    """
    if (before is None) == (images is None):
        raise click.UsageError("pass either --before CKPT0 or, as weaker evidence, --images")
    name = checkpoint.stem if checkpoint.suffix in _SUFFIXES else checkpoint.name
    target = out or Path(f"{name}-pruned.safetensors")
    if target.suffix != ".safetensors":
        raise click.UsageError(f"-o {target} must end in .safetensors")
    check_output_file(json_target, [checkpoint, before, images, target])
    check_output_file(target, [before, images])
    with open_checkpoint(checkpoint) as opened:
        check_output_file(target, opened.files)
        moe = prunable_moe(opened, ensemble_size)
        scores = _growth(opened, before, moe) if before else _use(opened, images)
        layers = choose_experts(scores, moe, counts)
        write_large_file(target, lambda file: write_pruned(file, opened, layers))
    weaker = f"Warning: {_USE} is weaker evidence than --before; compare accuracies before you use the result"
    lines = [] if before else [weaker]
    for (layer, pruned), experts in zip(layers.items(), moe.experts, strict=True):
        gone = np.setdiff1d(np.arange(experts), pruned.kept)
        lines.append(f"Block {layer}: kept {_listed(pruned.kept)} of {experts} experts; without {_listed(gone)}")
    size = target.stat().st_size / 1e6
    lines.append(f"Wrote {printable(str(target))}: {size:,.1f} MB; next: vmoe export, with the --config of CKPT")
    if not quiet:
        click.echo("\n".join(lines), file=people_stream(json_target))
    write_json(
        json_target,
        {
            "checkpoint": str(target),
            "criterion": _GROWTH if before else _USE,
            "layers": {f"encoderblock_{layer}": vars(pruned) for layer, pruned in layers.items()},
        },
    )


def _growth(checkpoint: Checkpoint, before: Path, moe: MoeConfig) -> list[np.ndarray]:
    with open_checkpoint(before) as opened:
        return router_growth(checkpoint, opened, moe)


def _use(checkpoint: Checkpoint, images: Path | None) -> list[np.ndarray]:
    if not isinstance(checkpoint, BundleCheckpoint):
        raise click.UsageError(f"--images needs a bundle, and {checkpoint.path} is not one; make one with vmoe export")
    assert images is not None
    with Engine.load(checkpoint.path) as engine:
        return class_token_use(engine, open_images(images, None, None))


def _listed(experts: np.ndarray) -> str:
    return ", ".join(map(str, experts)) or "none"
