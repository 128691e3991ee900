"""Check that `vmoe export` reports an invalid option, config or target in one sentence, and leaves no files behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_runs import Refuse, npz
from damaged_files import DENSE, SPARSE, assert_one_sentence, copied_bundle, read_tensors, written

from vmoe_export import ConfigError, ExportError, export, export_bundle

USAGE, FAILURE = 2, 1
COMMAND = [Path(sys.executable).with_name("vmoe-export")]

OPTIONS = {
    "capacity of 0": (["--capacity", "0"], "--capacity"),
    "capacity below 0": (["--capacity", "-0.5"], "--capacity"),
    "capacity that is not a number": (["--capacity", "nan"], "capacity"),
    "infinite capacity": (["--capacity", "inf"], "capacity"),
    "capacity as text": (["--capacity", "many"], "--capacity"),
    "capacity above the number of experts": (["--capacity", "9"], "capacity"),
    "capacity that leaves no slot": (["--capacity", "0.01", "--rounding", "round"], "capacity"),
    "k of 0": (["--k", "0"], "--k"),
    "k above the number of experts": (["--k", "9"], "k must be"),
    "k as text": (["--k", "two"], "--k"),
    "group that does not fit the batch": (["--group", "3", "--batch-size", "4"], "'3'"),
    "token group that does not fit the batch": (["--group", "tokens:7", "--batch-size", "3"], "'tokens:7'"),
    "group batch without a batch": (["--group", "batch"], "--batch-size"),
    "group of no images": (["--group", "0"], "group '0'"),
    "group as text": (["--group", "everything"], "group 'everything'"),
    "batch of 0": (["--batch-size", "0"], "--batch-size"),
    "image size as text": (["--image-size", "big"], "--image-size"),
    "image size of 0": (["--image-size", "0"], "--image-size"),
    "image smaller than a patch": (["--image-size", "31"], "31x31"),
    "image that is not square for a learned position embedding": (["--image-size", "64x96"], "position embedding"),
    "capacity multiple of 0": (["--capacity-multiple-of", "0"], "--capacity-multiple-of"),
    "unknown rounding": (["--rounding", "down"], "--rounding"),
    "unknown precision": (["--precision", "int2"], "--precision"),
    "two precisions at once": (["--precision", "bf16,int8"], "--precision"),
    "TensorRT graphs in int8": (["--precision", "int8", "--tensorrt"], "precision int8"),
    "TensorRT graphs in int4": (["--precision", "int4", "--tensorrt"], "precision int4"),
    "TensorRT graphs with experts in bfloat16": (["--precision", "bf16-experts", "--tensorrt"], "precision bf16-experts"),
    "max distance of 0": (["--precision", "int8", "--max-distance", "0"], "--max-distance"),
    "max distance that is not a number": (["--precision", "int8", "--max-distance", "nan"], "max_distance"),
    "images without validation": (["--precision", "int8", "--images", "x.npz", "--no-validate"], "--no-validate"),
    "images for a float32 export": (["--images", "x.npz"], "--images"),
    "precision of TensorRT graphs without them": (["--precision", "fp16"], "--tensorrt"),
    "unknown input": (["--input", "float16"], "--input"),
    "unknown output": (["--output", "boxes"], "--output"),
    "atol of 0": (["--atol", "0"], "--atol"),
    "infinite atol": (["--atol", "inf"], "atol"),
    "atol that is not a number": (["--atol", "nan"], "atol"),
    "capacity multiple far above the group": (["--capacity-multiple-of", "1" + "0" * 23], "multiple of 1000"),
    "token group that only a huge batch fits": (["--group", "tokens:1000003"], "1000003"),
    "group of a huge batch": (["--group", "batch", "--batch-size", "1000000000"], "'batch'"),
    "class names that are not there": (["--class-names", "none.txt"], "none.txt"),
    "unknown option": (["--turbo"], "--turbo"),
    "two checkpoints": (["another"], "another"),
    "verbose and quiet": (["-v", "-q"], "-q"),
    "json without a folder": (["--json", "nowhere/x.json"], "nowhere"),
    "a capacity that overflows": (["--capacity", "1e308"], "capacity"),
    "class names without an end": (["--class-names", "/dev/zero"], "more than 16 MiB"),
}


@pytest.mark.parametrize(("options", "name"), OPTIONS.values(), ids=OPTIONS)
def test_a_wrong_option_is_named_and_exits_2(options: list[str], name: str, tmp_path: Path, refuse_export: Refuse) -> None:
    out = refuse_export(SPARSE, *options, names=[name], code=USAGE)
    # the position embedding is resized late, when the export has already printed some output
    assert not out or name == "position embedding"


def test_a_config_of_a_dense_model_may_hold_a_strange_router(tmp_path: Path) -> None:
    config = {"encoder": {"moe": {"router": [1]}}}
    export_bundle(DENSE, tmp_path / "x.vmoe", config=config, validate=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x.vmoe"]


def test_a_command_without_a_checkpoint_exits_2(refuse_export: Refuse) -> None:
    refuse_export(names=["CKPT"], code=USAGE)


@pytest.mark.parametrize(
    ("content", "name"), [(b"cat\ndog\n", "2 class names"), (b"\xff\xfe\n" * 10, "names.txt")], ids=["count", "encoding"]
)
def test_class_names_must_be_text_with_one_line_per_class(
    content: bytes, name: str, tmp_path: Path, refuse_export: Refuse
) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    words = (SPARSE, "--class-names", tmp_path / "names.txt")
    refuse_export(*words, names=[name], code=USAGE)


def moe(**router: Any) -> dict[str, Any]:
    """Return a config that contains only these fields of the router."""
    return {"encoder": {"moe": {"router": router}}}


CONFIGS: dict[str, tuple[Any, str]] = {
    "that is not there": (None, "model.json"),
    "that is not JSON": (b"{num_classes: 10}", "model.json"),
    "that is a list": ([1, 2], "model.json"),
    "without an official field": ({"bundle": "x.vmoe", "encoders": {"num_layers": 4}}, "model.json has no field"),
    "nested 100,000 levels deep": (b"[" * 100_000, "model.json"),
    "whose encoder is a number": ({"encoder": 3}, "encoder"),
    "that contradicts the hidden size": ({"hidden_size": 768}, "hidden_size"),
    "that contradicts the number of classes": ({"num_classes": 1000}, "num_classes"),
    "that contradicts the number of blocks": ({"encoder": {"num_layers": 12}}, "num_layers"),
    "that contradicts the MoE layers": ({"encoder": {"moe": {"layers": [0, 1]}}}, "moe.layers"),
    "that contradicts the number of experts": ({"encoder": {"moe": {"num_experts": 1}}}, "num_experts"),
    "with an unknown classifier": ({"classifier": "average"}, "'average'"),
    "with a classifier of other tensors": ({"classifier": "map"}, "'map'"),
    "with an unknown position embedding": ({"encoder": {"position_emb": {"name": "rope"}}}, "'rope'"),
    "with an unknown router": (moe(name="HashRouter"), "HashRouter"),
    "with the router of a Soft MoE": (moe(name="vmoe.projects.soft_moe.router.SoftRouter"), "SoftRouter"),
    "with more choices than experts": (moe(num_selected_experts=9), "num_selected_experts"),
    "with a fixed capacity": (moe(dispatcher={"capacity": 4}), "--capacity"),
    "whose capacity factor is text": (moe(dispatcher={"capacity_factor": "1.05"}), "capacity_factor"),
    "whose capacity factor is below 0": (moe(dispatcher={"capacity_factor": -1}), "capacity_factor"),
    "with an unknown rounding": (moe(dispatcher={"capacity_ceil_or_round": "up"}), "capacity_ceil_or_round"),
    "with experts of another size": ({"encoder": {"moe": {"mlp_dim": 7}}}, "encoder.moe.mlp_dim 7"),
    "whose capacity multiple is text": (moe(dispatcher={"capacity_multiple_of": "4"}), "capacity_multiple_of"),
}


@pytest.mark.parametrize(("config", "name"), CONFIGS.values(), ids=CONFIGS)
def test_export_refuses_a_config(config: Any, name: str, tmp_path: Path, refuse_export: Refuse) -> None:
    path = tmp_path / "model.json"
    if config is not None:
        path.write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    refuse_export(SPARSE, "--config", path, names=[name])


@pytest.mark.parametrize(
    "config",
    [
        {"classifier": "x" * 10**6},
        {"encoder": {"position_emb": {"name": "x" * 10**6}}},
        *(moe(name=name) for name in ("x" * 10**6, "x" * 10**6 + "SoftRouter")),
        moe(num_selected_experts="x" * 10**6),
        moe(dispatcher={"capacity_ceil_or_round": "x" * 10**6}),
        moe(dispatcher={"capacity_multiple_of": "x" * 10**6}),
    ],
    ids=lambda config: str(config)[:40],
)
def test_a_sentence_repeats_the_beginning_of_a_long_text_alone(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        export_bundle(SPARSE, tmp_path / "x.vmoe", config=config, validate=False)
    assert len(str(refused.value)) < 400


def folder_with(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "x.vmoe").mkdir()
        (folder / "x.vmoe" / name).write_text(text)
        return folder / "x.vmoe"

    return make


def file_at(name: str, target: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text("mine")
        return folder / name / target

    return make


def link_to_a_folder(folder: Path) -> Path:
    (folder / "elsewhere").mkdir()
    (folder / "x.vmoe").symlink_to(folder / "elsewhere")
    return folder / "x.vmoe"


TARGETS: dict[str, Callable[[Path], Path]] = {
    "an existing file": file_at("x.vmoe"),
    "an existing folder": folder_with("thesis.txt", "mine"),
    "a folder with another program's manifest": folder_with("manifest.json", '{"name": "web app"}'),
    "a link to a folder": link_to_a_folder,
    "a name in a folder that is not there": lambda folder: folder / "absent" / "x.vmoe",
    "a name inside a file": file_at("file", "x.vmoe"),
    "a name that is too long": lambda folder: folder / ("x" * 300),
    "no name": lambda folder: Path(folder.anchor),
}


def test_a_bundle_that_no_reader_would_take_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = export.manifest_of
    monkeypatch.setattr(export, "manifest_of", lambda *given: {**real(*given), "input": {}})
    with pytest.raises(ExportError, match="can't be loaded"):
        export_bundle(SPARSE, tmp_path / "x.vmoe", validate=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("force", [False, True], ids=["without force", "with force"])
@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
def test_what_is_no_bundle_is_never_replaced(
    make: Callable[[Path], Path], force: bool, tmp_path: Path, refuse_export: Refuse
) -> None:
    target = make(tmp_path)
    refuse_export(SPARSE, "-o", target, *["--force"] * force, names=[str(target.parent)])


def test_a_bundle_is_kept_without_force(mnist_bundle: Path, tmp_path: Path, refuse_export: Refuse) -> None:
    copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    refuse_export(SPARSE, names=["x.vmoe", "--force"])


def test_no_bundle_is_written_into_a_bundle(mnist_bundle: Path, tmp_path: Path, refuse_export: Refuse) -> None:
    copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    refuse_export(SPARSE, "-o", tmp_path / "x.vmoe/in.vmoe", names=["in.vmoe would lie in the bundle"])


@pytest.mark.parametrize(
    ("bias", "options", "names"),
    [
        (np.nan, [], ["head/bias", "NaN"]),
        (0.0, ["--atol", "1e-12"], ["--atol 1e-12", "model.onnx"]),
        (0.0, ["--precision", "int8", "--max-distance", "1e-6"], ["--max-distance 1e-06", "in int8", "--precision"]),
    ],
)
def test_a_failing_export_with_force_leaves_the_old_bundle(
    bias: float, options: list[str], names: list[str], mnist_bundle: Path, tmp_path: Path, refuse_export: Refuse
) -> None:
    copied_bundle(mnist_bundle, tmp_path / "x.vmoe")
    checkpoint = written(tmp_path, read_tensors() | {"head/bias": np.full(10, bias, np.float32)})
    refuse_export(checkpoint, "--force", "--k", 1, *options, names=names)


def test_weights_that_leave_no_room_for_the_others_in_int8_are_refused(tmp_path: Path, refuse_export: Refuse) -> None:
    # The change does not affect the results of the float32 model. One feature becomes smaller by a factor of 1e4, and the
    # weights that multiply it become larger by the same factor.
    tensors = read_tensors(DENSE)
    for name, array in tensors.items():
        if "LayerNorm" in name:
            array[0] *= 1e-4
        elif name.endswith(("Dense_0/kernel", "query/kernel", "key/kernel", "value/kernel")):
            array[0] *= 1e4
    names = ["in int8", "--max-distance 0.2", "another --precision"]
    refuse_export(written(tmp_path, tensors), "--precision", "int8", names=names)


def pixels(count: int = 4, size: int = 96) -> np.ndarray:
    return np.zeros((count, size, size, 3), np.uint8)


def damaged(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-400])
    return path


IMAGES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "that are not there": (lambda folder: folder / "absent.npz", "absent.npz"),
    "in a damaged npz": (lambda folder: damaged(npz(folder / "images.npz", images=pixels())), "images.npz"),
    "of another size": (lambda folder: npz(folder / "images.npz", images=pixels(size=95)), "(N, 96, 96, 3)"),
    "too few for a group": (lambda folder: npz(folder / "images.npz", images=pixels(3)), "3 images"),
    "with labels of other classes": (
        lambda folder: npz(folder / "images.npz", images=pixels(), labels=np.full(4, 10)), "labels go from 10 to 10",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "name"), IMAGES.values(), ids=IMAGES)
def test_export_refuses_images(make: Callable[[Path], Path], name: str, tmp_path: Path, refuse_export: Refuse) -> None:
    words = (SPARSE, "--precision", "int8", "--k", 1, "--group", 4, "--images", make(tmp_path))
    refuse_export(*words, names=[name])


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system at `folder`. If the user who runs the tests may not mount file systems, skip the test."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("size=1m", "needs about"),
        ("size=64m,nr_inodes=2", os.strerror(errno.ENOSPC)),
        ("size=64m,ro", os.strerror(errno.EROFS)),
    ],
    ids=["disk that is too small", "disk that is full", "folder that is read-only"],
)
def test_export_onto_a(options: str, reason: str, tmp_path: Path, refuse_export: Refuse) -> None:
    with mounted(tmp_path, options):
        refuse_export(SPARSE, names=[str(tmp_path), reason])


def test_a_write_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, SPARSE, "-o", tmp_path / "x.vmoe"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert_one_sentence(done.stderr.removesuffix("\n"), "x.vmoe", os.strerror(errno.EFBIG))
    assert done.returncode == FAILURE
    assert list(tmp_path.iterdir()) == []
