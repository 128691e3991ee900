"""Check that a readable checkpoint with wrong tensors is refused with one sentence, and that nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_runs import Refuse
from damaged_files import read_tensors, written
from safetensors.numpy import load_file, save_file
from variants import VARIANTS

from vmoe_export import CheckpointError, export_bundle

BLOCK = "Encoder/encoderblock_1"
Tensors = dict[str, np.ndarray]
KERNEL = f"{BLOCK}/Moe/Mlp/Dense_0/kernel"
ROUTERS = [f"Encoder/encoderblock_{block}/Moe/Router" for block in (1, 3)]


def without(part: str) -> Tensors:
    """Return the golden tensors, without the tensors whose name contains `part`."""
    return {name: array for name, array in read_tensors().items() if part not in name}


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Tensors:
    """Return the golden tensors, with `change` applied to the tensors whose name ends with `name`."""
    return {key: change(array) if key.endswith(name) else array for key, array in read_tensors().items()}


def with_nan(array: np.ndarray) -> np.ndarray:
    array[3, 2, 1] = np.nan
    return array


def soft_moe(mu: tuple[int, ...], scale: tuple[int, ...]) -> Tensors:
    tensors = without("Router")
    for router in ROUTERS:
        tensors |= {f"{router}/mu": np.zeros(mu, np.float32), f"{router}/scale": np.ones(scale, np.float32)}
    return tensors


def ensemble(*members: int) -> Tensors:
    tensors = read_tensors()
    for router, count in zip(ROUTERS, members, strict=True):
        tensors[f"{router}/dense/kernel"] = tensors[f"{router}/dense/kernel"].reshape(40, count, -1)
    return tensors


FAULTS: dict[str, tuple[Callable[[], Tensors], tuple[str, ...]]] = {
    "no embedding": (lambda: without("embedding/kernel"), ("embedding/kernel",)),
    "missing tensor": (lambda: without("head/bias"), ("head/bias",)),
    "a name in two spellings": (lambda: read_tensors() | {"head.bias": np.zeros(10, np.float32)}, ("'head/bias' twice",)),
    "extra tensor": (
        lambda: read_tensors() | {"Encoder/extra/kernel": np.zeros(3, np.float32)}, ("Encoder/extra/kernel",),
    ),
    "gap in the encoder blocks": (lambda: without(f"{BLOCK}/"), ("0, 1, 2", "[0, 2, 3]")),
    "shapes that contradict each other": (
        lambda: changed(f"{BLOCK}/Moe/Mlp/Dense_1/kernel", lambda array: array[..., :39]), ("(8, 80, 39)", "(8, 80, 40)"),
    ),
    "a router of fewer experts than its layer has": (
        lambda: changed(f"{ROUTERS[1]}/dense/kernel", lambda array: array[:, :4]), ("encoderblock_3/Moe", "(8, ", "(4, "),
    ),
    "heads that do not divide the hidden size": (
        lambda: changed("SelfAttention/query/kernel", lambda array: array[:, :3]), ("SelfAttention", "(40, 3, 10)"),
    ),
    "patch kernel of three dimensions": (
        lambda: changed("embedding/kernel", lambda array: array.reshape(96, 32, 40)), ("embedding/kernel", "(96, 32, 40)"),
    ),
    "position embedding that is no square": (
        lambda: changed("pos_embedding", lambda _: np.zeros((1, 12, 40), np.float32)), ("position embedding", "11 patches"),
    ),
    "weights that are whole numbers": (
        lambda: changed("head/bias", lambda array: array.astype(np.int32)), ("head/bias", "int32"),
    ),
    "complex weights": (
        lambda: changed("head/bias", lambda array: array.astype(np.complex64)), ("head/bias", "complex64"),
    ),
    "NaN in one weight": (lambda: changed(KERNEL, with_nan), (KERNEL, "NaN")),
    "float64 weight beyond float32": (
        lambda: changed("head/bias", lambda _: np.full(10, 1e300)), ("head/bias", "infinite"),
    ),
    "Soft MoE with slots of other experts": (lambda: soft_moe((40, 6, 2), ()), (KERNEL, "8")),
    "Soft MoE without an axis of slots": (lambda: soft_moe((40, 8), ()), (f"{ROUTERS[0]}/mu", "(40, 8)")),
    "Soft MoE with a scale that is a list": (lambda: soft_moe((40, 8, 2), (1,)), (f"{ROUTERS[0]}/scale", "(1,)")),
    "ensemble of two in one layer and of four in another": (lambda: ensemble(2, 4), (ROUTERS[1], "(40, 4, 2)")),
    "MoE layer without a router": (lambda: without("Router"), ("Moe/Router/dense/kernel",)),
}  # fmt: skip


@pytest.mark.parametrize(("build", "names"), FAULTS.values(), ids=FAULTS)
def test_export_of_tensors_that_are_no_model_says_so_and_leaves_nothing(
    build: Callable[[], Tensors], names: tuple[str, ...], tmp_path: Path, refuse_export: Refuse
) -> None:
    refuse_export(written(tmp_path, build()), names=("ckpt", *names))


MISSING = {
    r"(Norm_\d|encoder_norm|MapHead/LayerNorm)/bias": "encoder_norm/bias",
    r"MapHead/(LayerNorm|Mlp|.*query)": "MapHead/LayerNorm/bias",
}
"""By a regular expression for tensors that official models have and models of other families may lack."""


@pytest.mark.parametrize("pattern", MISSING)
def test_an_official_model_without_some_tensors_is_not_taken_for_a_model_of_another_kind(
    pattern: str, tmp_path: Path
) -> None:
    checkpoint = VARIANTS[7].write(tmp_path)
    tensors = {name: array for name, array in load_file(checkpoint).items() if not re.search(pattern, name)}
    save_file(tensors, checkpoint)
    with pytest.raises(CheckpointError, match=f"has no tensor .*{MISSING[pattern]}"):
        export_bundle(checkpoint, tmp_path / "model.vmoe", **VARIANTS[7].export_options)
