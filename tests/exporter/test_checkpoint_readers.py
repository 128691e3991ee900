"""Check that every kind of checkpoint reader returns the same tensors under the official names, one at a time."""

from __future__ import annotations

import gc
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from damaged_files import assert_holds, refusal
from official_writer import nest
from reader_mutations import KINDS

from vmoe_export import CheckpointError, open_checkpoint

pytestmark = pytest.mark.fast

Tensors = dict[str, np.ndarray]
Writer = Callable[[Path, Tensors], Path]

BIG_TENSORS = 16
BIG_TENSOR_BYTES = 4 << 20


def parameters() -> Tensors:
    rng = np.random.default_rng(3)
    names = ["cls", "embedding/kernel", "Encoder/encoderblock_0/Mlp/Dense_0/kernel", "head/bias"]
    names += [f"Encoder/encoderblock_{i}/LayerNorm_0/scale" for i in (1, 2, 10)]
    return {name: rng.random((2, 3, 4), np.float32) for name in names}


def to_torch(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: to_torch(value) for key, value in tree.items()}
    return torch.from_numpy(tree)


def flat(separator: str, prefix: str = "") -> Callable[[Tensors], Any]:
    return lambda tensors: {
        (prefix + name).replace("/", separator): torch.from_numpy(array) for name, array in tensors.items()
    }


def nested(*roots: str, **beside: Any) -> Callable[[Tensors], Any]:
    def arrange(tensors: Tensors) -> Any:
        tree = to_torch(nest(tensors))
        for root in reversed(roots):
            tree = {root: tree, **beside}
        return tree

    return arrange


MOMENTS = {"mu": {"embedding": {"kernel": torch.zeros(2)}}, "count": torch.tensor(3)}
ARRANGEMENTS: dict[str, Callable[[Tensors], Any]] = {
    "flat with dots": flat("."),
    "flat with slashes": flat("/"),
    "flat with dots under params": flat(".", "params/"),
    "flat with dots under module": flat(".", "module/"),
    "flat with slashes under params": flat("/", "params/"),
    "nested": nested(),
    "nested under params": nested("params"),
    "nested under target": nested("target"),
    "nested under state_dict": nested("state_dict", epoch=3),
    "nested under model_state_dict": nested("model_state_dict", epoch=3),
    "flat with dots inside params": lambda tensors: {"params": flat(".")(tensors)},
    "a train state": nested("params", step=7, opt_state=MOMENTS, rngs={"dropout": torch.zeros(2)}),
    "a train state with a tuple of optimisers": nested("params", step=torch.tensor(7), opt_state=(MOMENTS, None)),
    "a train state under target": nested("target", "params", step=7, opt_state=MOMENTS),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS.values(), ids=ARRANGEMENTS.keys())
def test_torch_files_give_the_official_names(tmp_path: Path, arrangement: Callable[[Tensors], Any], zipped: bool) -> None:
    torch.save(arrangement(parameters()), tmp_path / "ckpt.pt", _use_new_zipfile_serialization=zipped)
    assert ((tmp_path / "ckpt.pt").read_bytes()[:2] == b"PK") == zipped
    assert_holds(tmp_path / "ckpt.pt", "torch", parameters())


def test_what_a_training_program_saves_beside_the_model_is_told_and_never_chosen(tmp_path: Path) -> None:
    path, model = tmp_path / "ckpt.pt", flat(".")(parameters())
    state = {"epoch": 3, "model": model, "model_ema": flat(".")(parameters()), "optimizer": {"exp_avg": torch.ones(3)}}
    torch.save(state, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == ("ignored (not part of the model): model_ema, optimizer",)
    torch.save(state | {"module": model}, path)
    with refusal(CheckpointError, "ckpt.pt", "two models", "'model/embedding/kernel' and 'module/embedding/kernel'"):
        open_checkpoint(path)
    torch.save({"state_dict": flat(".", "net.")(parameters())}, path)
    with refusal(CheckpointError, "ckpt.pt", "'state_dict/net/embedding/kernel'", "save the tree"):
        open_checkpoint(path)


@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("prefix", ["", "params/", "target/", "target/params/"])
def test_safetensors_files_give_the_official_names(tmp_path: Path, separator: str, prefix: str) -> None:
    tensors = {(prefix + name).replace("/", separator): array for name, array in parameters().items()}
    if prefix:
        tensors[f"opt_state/mu/{prefix}embedding/kernel".replace("/", separator)] = np.zeros(2)
    safetensors.numpy.save_file(tensors, tmp_path / "ckpt.safetensors", metadata={"format": "np"})
    assert_holds(tmp_path / "ckpt.safetensors", "safetensors", parameters())


TORCH_DTYPES = [
    "bool", "int8", "uint8", "int16", "int32", "int64", "float16",
    "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip


@pytest.mark.parametrize("dtype_name", TORCH_DTYPES)
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_every_dtype_keeps_its_bits(tmp_path: Path, dtype_name: str, kind: str) -> None:
    if kind == "legacy" and dtype_name.startswith("float8"):
        pytest.skip("these types are younger than that layout")
    tensors = {
        "embedding.kernel": _random_bits(dtype_name, (5, 6)),
        "scalar": _random_bits(dtype_name, ()),
        "empty": _random_bits(dtype_name, (3, 0)),
    }
    path = tmp_path / ("ckpt.safetensors" if kind == "safetensors" else "ckpt.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    with open_checkpoint(path) as checkpoint:
        for name, tensor in tensors.items():
            found = checkpoint[name.replace(".", "/")]
            assert found.dtype == np.dtype(getattr(ml_dtypes, dtype_name, dtype_name))
            assert found.shape == tuple(tensor.shape)
            assert found.tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_what_was_read_may_be_changed_and_outlives_the_checkpoint(tmp_path: Path) -> None:
    for write in WRITERS.values():
        with open_checkpoint(write(tmp_path, parameters())) as checkpoint:
            first = checkpoint["cls"]
            first[...] = 0
            second = checkpoint["cls"]
        np.testing.assert_array_equal(second, parameters()["cls"])


WRITERS = {name: KINDS[name].write for name in ("official", "safetensors", "torch")}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_reading_one_tensor_leaves_the_others_on_disk(tmp_path: Path, write: Writer) -> None:
    shape = (BIG_TENSOR_BYTES // 4 // 64, 64)
    path = write(
        tmp_path,
        {f"layer_{i}/kernel" if i else "embedding/kernel": np.full(shape, i, np.float32) for i in range(BIG_TENSORS)},
    )
    gc.collect()
    before = _anonymous_bytes()
    tracemalloc.start()
    try:
        with open_checkpoint(path) as checkpoint:
            tensor = checkpoint["layer_7/kernel"]
            grown = _anonymous_bytes() - before
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tensor == 7).all()
    assert peak < 3 * BIG_TENSOR_BYTES
    assert grown < 3 * BIG_TENSOR_BYTES


def _random_bits(dtype_name: str, shape: tuple[int, ...]) -> torch.Tensor:
    dtype = getattr(torch, dtype_name)
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    raw = torch.from_numpy(np.random.default_rng(5).integers(0, 256, size, dtype=np.uint8))
    return (raw % 2 if dtype == torch.bool else raw).view(dtype).reshape(shape)


def _anonymous_bytes() -> int:
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024
