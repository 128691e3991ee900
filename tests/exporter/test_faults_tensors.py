"""A readable checkpoint whose tensors are not those of a model is refused in one sentence, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damaged_files import DENSE, Build, Faults, assert_command_refuses, golden_tensors, written
from safetensors.numpy import save_file

BLOCK = "Encoder/encoderblock_1"
FAULTS = Faults()


@FAULTS.naming("ckpt", "embedding/kernel")
def no_embedding(folder: Path) -> Path:
    tensors = golden_tensors()
    del tensors["embedding/kernel"]
    return written(folder, tensors)


@FAULTS.naming("ckpt", "head/bias")
def missing_tensor(folder: Path) -> Path:
    tensors = golden_tensors()
    del tensors["head/bias"]
    return written(folder, tensors)


@FAULTS.naming("ckpt", "'head/bias' twice")
def tensor_under_two_spellings_of_one_name(folder: Path) -> Path:
    return written(folder, golden_tensors() | {"head.bias": np.zeros(10, np.float32)})


@FAULTS.naming("ckpt", "Encoder/extra/kernel")
def extra_tensor(folder: Path) -> Path:
    return written(folder, golden_tensors() | {"Encoder/extra/kernel": np.zeros(3, np.float32)})


@FAULTS.naming("ckpt", "0, 1, 2", "[0, 2, 3]")
def gap_in_the_encoder_blocks(folder: Path) -> Path:
    tensors = golden_tensors()
    return written(folder, {name: array for name, array in tensors.items() if not name.startswith(f"{BLOCK}/")})


@FAULTS.naming("ckpt", f"{BLOCK}/Moe/Mlp/Dense_1/kernel", "(8, 80, 39)", "(8, 80, 40)")
def shapes_that_contradict_each_other(folder: Path) -> Path:
    tensors = golden_tensors()
    name = f"{BLOCK}/Moe/Mlp/Dense_1/kernel"
    return written(folder, tensors | {name: tensors[name][..., :39]})


@FAULTS.naming("ckpt", "Encoder/encoderblock_3/Moe/Router/dense/kernel", "(40, 4)")
def moe_layers_with_different_numbers_of_experts(folder: Path) -> Path:
    tensors = golden_tensors()
    name = "Encoder/encoderblock_3/Moe/Router/dense/kernel"
    return written(folder, tensors | {name: tensors[name][:, :4]})


@FAULTS.naming("ckpt", "SelfAttention", "(40, 3, 10)")
def heads_that_do_not_divide_the_hidden_size(folder: Path) -> Path:
    tensors = golden_tensors()
    return written(
        folder,
        {name: a[:, :3] if name.endswith("SelfAttention/query/kernel") else a for name, a in tensors.items()},
    )


@FAULTS.naming("ckpt", "embedding/kernel", "(96, 32, 40)")
def patch_kernel_of_three_dimensions(folder: Path) -> Path:
    tensors = golden_tensors()
    return written(folder, tensors | {"embedding/kernel": tensors["embedding/kernel"].reshape(96, 32, 40)})


@FAULTS.naming("ckpt", "position embedding", "11 patches")
def position_embedding_that_is_no_square(folder: Path) -> Path:
    name = "Encoder/posembed_input/pos_embedding"
    return written(folder, golden_tensors() | {name: np.zeros((1, 12, 40), np.float32)})


@FAULTS.naming("ckpt", "head/bias", "int32")
def weights_that_are_whole_numbers(folder: Path) -> Path:
    return written(folder, golden_tensors() | {"head/bias": np.zeros(10, np.int32)})


@FAULTS.naming("ckpt", "head/bias", "complex64")
def complex_weights(folder: Path) -> Path:
    return written(folder, golden_tensors() | {"head/bias": np.zeros(10, np.complex64)})


@FAULTS.naming("ckpt", f"{BLOCK}/Moe/Mlp/Dense_0/kernel", "NaN")
def nan_in_one_weight(folder: Path) -> Path:
    tensors = golden_tensors()
    tensors[f"{BLOCK}/Moe/Mlp/Dense_0/kernel"][3, 2, 1] = np.nan
    return written(folder, tensors)


@FAULTS.naming("ckpt", "head/bias", "infinite")
def float64_weight_beyond_float32(folder: Path) -> Path:
    return written(folder, golden_tensors() | {"head/bias": np.full(10, 1e300)})


def soft_moe(mu: tuple[int, ...], scale: tuple[int, ...]) -> dict[str, np.ndarray]:
    tensors = golden_tensors()
    for block in (1, 3):
        router = f"Encoder/encoderblock_{block}/Moe/Router"
        del tensors[f"{router}/dense/kernel"]
        tensors |= {f"{router}/mu": np.zeros(mu, np.float32), f"{router}/scale": np.ones(scale, np.float32)}
    return tensors


@FAULTS.naming("ckpt", "encoderblock_1/Moe/Mlp/Dense_0/kernel", "8")
def soft_moe_with_slots_of_other_experts(folder: Path) -> Path:
    return written(folder, soft_moe((40, 6, 2), ()))


@FAULTS.naming("ckpt", "encoderblock_1/Moe/Router/mu", "(40, 8)")
def soft_moe_without_an_axis_of_slots(folder: Path) -> Path:
    return written(folder, soft_moe((40, 8), ()))


@FAULTS.naming("ckpt", "encoderblock_1/Moe/Router/scale", "(1,)")
def soft_moe_with_a_scale_that_is_a_list(folder: Path) -> Path:
    return written(folder, soft_moe((40, 8, 2), (1,)))


@FAULTS.naming("ckpt", "encoderblock_3/Moe/Router/dense/kernel", "(40, 4, 2)")
def ensemble_of_two_in_one_layer_and_of_four_in_another(folder: Path) -> Path:
    members = {"encoderblock_1": 2, "encoderblock_3": 4}
    tensors = golden_tensors()
    for block, count in members.items():
        name = f"Encoder/{block}/Moe/Router/dense/kernel"
        tensors[name] = tensors[name].reshape(40, count, -1)
    return written(folder, tensors)


@FAULTS.naming("ckpt", "Moe/Router/dense/kernel")
def moe_layer_without_a_router(folder: Path) -> Path:
    tensors = golden_tensors()
    return written(folder, {name: array for name, array in tensors.items() if "Router" not in name})


@FAULTS.naming("ckpt.safetensors", "head/bias", "(9,)")
def safetensors_whose_shapes_contradict_each_other(folder: Path) -> Path:
    save_file(golden_tensors(DENSE) | {"head/bias": np.zeros(10, np.float32)}, folder / "ckpt.safetensors")
    return folder / "ckpt.safetensors"


@pytest.mark.parametrize(("build", "names"), FAULTS)
def test_export_of_tensors_that_are_no_model_says_so_and_leaves_nothing(
    build: Build, names: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    outputs.mkdir()
    assert_command_refuses([str(build(inputs)), "-o", str(outputs / "x.vmoe")], 1, names, capfd)
    assert list(outputs.iterdir()) == []
