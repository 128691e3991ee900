"""The samples that users copy: the writer of random checkpoints, and the runner on plain ONNX Runtime."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import numpy as np
import pytest

from vmoe_export import export_bundle, open_checkpoint
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.model_description import describe_model, load_config
from vmoe_export.model.parameters import parameter_shapes
from vmoe_runtime import Engine

SAMPLES = Path(__file__).parents[2] / "samples"
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
PLAIN = SAMPLES / "onnxruntime_plain.py"

Shapes = Mapping[str, tuple[int, ...]]


@pytest.fixture
def tiny(writer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The writer with an S/32 of 12 blocks that is a few kB small."""
    monkeypatch.setitem(writer.VARIANTS, "S/32", writer.Variant(16, 12, 24, 2, 8))
    return writer


def tiny_model(writer: ModuleType, experts: int = 5) -> ModelConfig:
    model: ModelConfig = writer.describe(writer.Variant(16, 12, 24, 2, 8), 24, 7, experts, (1, 2, 10))
    return model


def write(writer: ModuleType, prefix: Path, shapes: Shapes, shards: int) -> None:
    writer.write_checkpoint(prefix, shapes, writer.random_weights(0), shards)


def decode(data: bytes) -> Any:
    """Plain msgpack with the extension types of the official serialization, each to a plain value."""

    def extension(code: int, payload: bytes) -> Any:
        values = msgpack.unpackb(payload)
        if code == 1:
            shape, dtype, raw = values
            return np.frombuffer(raw, dtype).reshape(shape)
        if code == 6:
            return tuple(slice(*msgpack.unpackb(item)) for item in values)
        assert code == 8
        shaped, slices, shards = values
        shape, dtype, weak_type, names = msgpack.unpackb(shaped)
        assert (dtype, weak_type, names) == ("float32", False, {})
        return tuple(shape), [extension(6, item) for item in slices], shards

    return msgpack.unpackb(data, ext_hook=extension)


def shards_of(prefix: Path) -> list[dict[str, Any]]:
    paths = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    return [decode(path.read_bytes()) for path in paths]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_a_written_checkpoint_reads_back_bit_equal(writer: ModuleType, tmp_path: Path, shards: int) -> None:
    shapes = parameter_shapes(tiny_model(writer))
    write(writer, tmp_path / "w", shapes, shards)
    make = writer.random_weights(0)
    with open_checkpoint(tmp_path / "w") as checkpoint:
        assert checkpoint.keys() == shapes.keys()
        for name, tensor in checkpoint.items():
            assert tensor.dtype == np.float32
            np.testing.assert_array_equal(tensor, make(name, shapes[name]), err_msg=name)


@pytest.mark.parametrize(("name", "shards"), [("g1", 2), ("g2", 1), ("g3", 3), ("g4", 1)])
def test_files_are_byte_for_byte_those_of_the_official_writer(
    writer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shards: int
) -> None:
    # The golden checkpoints were saved from one device, which leaves expert tensors whole.
    monkeypatch.setattr(writer, "EXPERT_TENSORS", "no such tensor")
    with open_checkpoint(GOLDEN / name) as official:
        shapes = {tensor: info.shape for tensor, info in official.info.items()}
        writer.write_checkpoint(tmp_path / name, shapes, lambda tensor, _: official[tensor], shards)
    written = contents(tmp_path)
    assert len(written) == shards + 1
    assert written == {file: (GOLDEN / file).read_bytes() for file in written}


def test_expert_tensors_are_cut_along_experts_and_spread_over_the_shards(writer: ModuleType, tmp_path: Path) -> None:
    shapes = parameter_shapes(tiny_model(writer))
    write(writer, tmp_path / "w", shapes, 3)
    index = decode((tmp_path / "w.index").read_bytes())
    assert (index["shard_count"], index["version"]) == (3, "20220622")
    block = index["index"]["Encoder"]["encoderblock_10"]
    shape, slices, shards = block["Moe"]["Mlp"]["Dense_0"]["kernel"]
    assert shape == (5, 16, 24)
    assert [item[0] for item in slices] == [slice(e, e + 1, None) for e in range(5)]
    assert set(shards) == {0, 1, 2}
    assert block["Moe"]["Router"]["dense"]["kernel"][1] == [(slice(0, 16, None), slice(0, 5, None))]


def test_array_ids_follow_the_names_sorted_as_text(writer: ModuleType, tmp_path: Path) -> None:
    shapes = parameter_shapes(tiny_model(writer))
    write(writer, tmp_path / "w", shapes, 1)
    (shard,) = shards_of(tmp_path / "w")
    assert shard.pop("__msgpack_array_chunk_a87ca2__") is True
    ids = {name: str(rank) for rank, name in enumerate(sorted(shapes, key=lambda name: name.split("/")))}
    tenth, second = (ids[f"Encoder/encoderblock_{i}/Moe/Mlp/Dense_1/kernel"] for i in (10, 2))
    assert int(tenth) < int(second)
    make = writer.random_weights(0)
    for name, shape in shapes.items():
        tensor = np.full(shape, np.nan, np.float32)
        for subchunks, where in shard[ids[name]]:
            tensor[where] = np.concatenate(subchunks).reshape(tensor[where].shape)
        np.testing.assert_array_equal(tensor, make(name, shape), err_msg=name)


def test_chunks_above_the_size_limit_are_stored_in_pieces(
    writer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_SUBCHUNK_BYTES", 1000)
    shapes = {"embedding/kernel": (8, 8, 3, 16), "head/bias": (7,)}
    write(writer, tmp_path / "w", shapes, 1)
    (shard,) = shards_of(tmp_path / "w")
    sizes = [piece.size for piece in shard["0"][0][0]]
    assert sizes == [250] * 12 + [72]
    with open_checkpoint(tmp_path / "w") as checkpoint:
        expected = writer.random_weights(0)("embedding/kernel", (8, 8, 3, 16))
        np.testing.assert_array_equal(checkpoint["embedding/kernel"], expected)


def test_shards_beyond_the_number_of_chunks_are_empty(writer: ModuleType, tmp_path: Path) -> None:
    write(writer, tmp_path / "w", {"embedding/kernel": (2, 2, 3, 4)}, 3)
    assert [len(shard) for shard in shards_of(tmp_path / "w")] == [2, 1, 1]
    assert open_checkpoint(tmp_path / "w")["embedding/kernel"].shape == (2, 2, 3, 4)


def test_shards_are_of_about_the_same_size(writer: ModuleType) -> None:
    shapes = parameter_shapes(writer.describe(writer.VARIANTS["B/16"], 224, 1000, 8, (1, 3, 5, 7, 9, 11)))
    filled = [0] * 4
    for chunks in writer.plan_chunks(shapes, 4).values():
        for chunk in chunks:
            filled[chunk.shard] += np.prod([stop - start for start, stop in chunk.box])
    assert sum(filled) == 284_946_664
    assert max(filled) - min(filled) < 768 * 3072


@pytest.mark.parametrize(
    ("placement", "blocks", "layers"),
    [
        ("Every 2", 8, (1, 3, 5, 7)),
        ("every 2", 12, (1, 3, 5, 7, 9, 11)),
        ("Every 3", 8, (2, 5)),
        ("Every 1", 3, (0, 1, 2)),
        ("Last 2", 8, (5, 7)),
        ("Last 1", 12, (11,)),
        ("Last 5", 24, (15, 17, 19, 21, 23)),
        ("Last 16", 32, tuple(range(1, 32, 2))),
    ],
)
def test_moe_layers_are_placed_as_in_the_paper(
    writer: ModuleType, placement: str, blocks: int, layers: tuple[int, ...]
) -> None:
    assert writer.moe_layers(placement, blocks) == layers


def test_weights_have_the_promised_distribution_and_depend_on_name_and_seed(writer: ModuleType) -> None:
    kernel = writer.random_weights(0)("head/kernel", (200, 200))
    scale = writer.random_weights(0)("Encoder/encoder_norm/scale", (40_000,))
    assert kernel.std() == pytest.approx(0.02, rel=0.02)
    assert abs(kernel.mean()) < 5e-4
    assert (scale.mean(), scale.std()) == (pytest.approx(1, abs=5e-4), pytest.approx(0.02, rel=0.02))
    assert not np.array_equal(kernel, writer.random_weights(1)("head/kernel", (200, 200)))
    assert not np.array_equal(kernel, writer.random_weights(0)("head/kerne1", (200, 200)))


@pytest.mark.parametrize("variant", ["S/32", "B/32", "B/16", "L/32", "L/16", "H/14"])
def test_the_written_config_describes_the_written_tensors(writer: ModuleType, variant: str, tmp_path: Path) -> None:
    sizes = writer.VARIANTS[variant]
    layers = writer.moe_layers("Last 2", sizes.num_layers)
    model = writer.describe(sizes, 224, 1000, 8, layers)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(writer.official_config(model)))
    assert describe_model(parameter_shapes(model), load_config(path)) == model


def test_the_command_writes_checkpoint_and_config(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--variant", "S/32", "--experts", "4", "--layers", "Last 2", "--image-size", "32"]
    options += ["--num-classes", "9", "--representation-size", "11", "--shards", "3"]
    assert tiny.main([str(tmp_path / "s32"), *options]) == 0
    assert re.fullmatch(r".*s32: \d+ tensors, \d+ MB, 3 shards\n", capsys.readouterr().out)
    names = ["s32.data-00000-of-00003", "s32.data-00001-of-00003", "s32.data-00002-of-00003"]
    assert sorted(contents(tmp_path)) == [*names, "s32.index", "s32.json"]
    model = describe_model(
        {name: info.shape for name, info in open_checkpoint(tmp_path / "s32").info.items()},
        load_config(tmp_path / "s32.json"),
    )
    assert (model.image_size, model.num_classes, model.patch_size) == ((32, 32), 9, (8, 8))
    assert model.representation_size == 11
    assert model.moe
    assert (model.moe.layers, model.moe.num_experts) == ((9, 11), 4)


def test_the_command_makes_a_plain_vit(tiny: ModuleType, tmp_path: Path) -> None:
    assert tiny.main([str(tmp_path / "vit"), "--variant", "S/32", "--dense"]) == 0
    checkpoint = open_checkpoint(tmp_path / "vit")
    assert not any("/Moe/" in name for name in checkpoint)
    assert "moe" not in load_config(tmp_path / "vit.json")["encoder"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "Z/16"], "'Z/16' is not one of"),
        (["--layers", "Odd 2"], "'Odd 2' is not of the form"),
        (["--layers", "Every 13"], "more blocks than the 12"),
        (["--layers", "Last 7"], "more blocks than the 12"),
        (["--layers", "Last 0"], "'Last 0' is not of the form"),
        (["--experts", "0"], "0 is not in the range"),
        (["--shards", "none"], "'none' is not a valid integer"),
        (["--image-size", "8"], "smaller than one patch"),
        (["--dense", "--experts", "4"], "without MoE layers"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_a_mistake_in_the_call_is_one_sentence_and_exit_code_2(
    writer: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert writer.main([str(tmp_path / "x"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not contents(tmp_path)


def test_an_existing_checkpoint_is_replaced_by_force_only(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tmp_path / "x"), "--variant", "S/32", "--shards"]
    assert tiny.main([*command, "4"]) == 0
    before = contents(tmp_path)
    assert tiny.main([*command, "2"]) == 1
    assert "x.index exists; --force replaces it" in capsys.readouterr().err
    assert contents(tmp_path) == before
    (tmp_path / "x.txt").touch()
    (tmp_path / "xx.index").touch()
    assert tiny.main([*command, "2", "--force"]) == 0
    names = ["x.data-00000-of-00002", "x.data-00001-of-00002", "x.index", "x.json", "x.txt", "xx.index"]
    assert sorted(contents(tmp_path)) == names
    assert len(open_checkpoint(tmp_path / "x")) > 0


def test_a_missing_folder_is_one_sentence_and_exit_code_1(
    writer: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert writer.main([str(tmp_path / "no" / "x")]) == 1
    error = capsys.readouterr().err
    assert "make the folder first" in error
    assert error.count("\n") == 1


def test_a_write_that_fails_leaves_the_folder_as_it_was(tiny: ModuleType, tmp_path: Path) -> None:
    shapes = {"embedding/kernel": (2, 2, 3, 4), "head/bias": (4,)}
    write(tiny, tmp_path / "x", shapes, 2)
    before = contents(tmp_path)

    def fail_at_the_last(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name == "head/bias":
            raise OSError(28, "No space left on device")
        return np.zeros(shape, np.float32)

    with pytest.raises(tiny.CheckpointWriteError, match="could not be written: No space left on device"):
        tiny.write_checkpoint(tmp_path / "x", shapes, fail_at_the_last, 2, force=True)
    assert contents(tmp_path) == before


def test_an_interrupted_command_leaves_nothing(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str, shape: tuple[int, ...]) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "random_weights", lambda seed: interrupt)
    assert tiny.main([str(tmp_path / "x"), "--variant", "S/32"]) == 1
    assert capsys.readouterr().err.strip() == "error: stopped"
    assert not contents(tmp_path)


def test_a_tensor_of_another_shape_or_dtype_is_refused(writer: ModuleType, tmp_path: Path) -> None:
    shapes = {"embedding/kernel": (2, 2, 3, 4)}
    with pytest.raises(ValueError, match="embedding/kernel is float64"):
        writer.write_checkpoint(tmp_path / "x", shapes, lambda _, shape: np.zeros(shape), 1)
    assert not contents(tmp_path)


def test_a_random_checkpoint_exports_and_answers(writer: ModuleType, tmp_path: Path) -> None:
    model = tiny_model(writer)
    writer.write_checkpoint(
        tmp_path / "r",
        parameter_shapes(model),
        writer.random_weights(3),
        2,
        config=writer.official_config(model),
    )
    target = tmp_path / "r.vmoe"
    result = export_bundle(tmp_path / "r", target, capacity=[0.5], k=[1], config=tmp_path / "r.json")
    assert result.comparisons
    images = np.random.default_rng(0).uniform(-1, 1, (3, 24, 24, 3)).astype(np.float32)
    engine = Engine.load(target)
    assert engine.manifest.moe_layers == ("encoderblock_1", "encoderblock_2", "encoderblock_10")
    logits = engine(images)
    assert logits.shape == (3, 7)
    assert np.isfinite(logits).all()
    assert logits.std() > 0


def run_plain(*arguments: object, blocked: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(blocked)} if blocked else None
    command = [sys.executable, str(PLAIN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("profile", ["c0.3-k1", "c1.05-k2"])
def test_plain_onnxruntime_gives_the_accuracy_of_the_engine(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, profile: str
) -> None:
    images, labels = mnist_images["images"][:512], mnist_images["labels"][:512]
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    # A package of that name that can't be imported proves that the script does without it.
    (tmp_path / "vmoe_runtime").mkdir()
    (tmp_path / "vmoe_runtime" / "__init__.py").write_text("raise ImportError\n")
    finished = run_plain(mnist_bundle, tmp_path / "digits.npz", "--profile", profile, blocked=tmp_path)
    assert finished.stderr == ""
    logits, routing = Engine.load(mnist_bundle, profile=profile).logits_and_routing(images)
    accuracy = 100 * np.mean(logits.argmax(-1) == labels)
    kept = 100 * np.mean([route.kept for route in routing.values()])
    assert finished.stdout == (f"top-1 accuracy: {accuracy:.2f} % of 512 images\nkept pairs: {kept:.2f} %\n")


def test_plain_onnxruntime_prints_predictions_without_labels(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    images = mnist_images["images"][:48]
    np.savez(tmp_path / "few.npz", images=images)
    finished = run_plain(mnist_bundle, tmp_path / "few.npz")
    first = next(iter(Engine.load(mnist_bundle).profiles))
    expected = Engine.load(mnist_bundle, profile=first)(images).argmax(-1)
    assert finished.stdout.splitlines()[0] == f"predictions: {' '.join(map(str, expected))}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((32, ["--profile", "c9-k9"]), "there is no profile 'c9-k9'"),
        ((40, []), "the bundle needs a multiple of 16 images, and there are 40"),
    ],
)
def test_plain_onnxruntime_says_in_one_line_what_is_wrong(
    mnist_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    tmp_path: Path,
    call: tuple[int, list[str]],
    message: str,
) -> None:
    count, options = call
    np.savez(tmp_path / "few.npz", images=mnist_images["images"][:count])
    finished = run_plain(mnist_bundle, tmp_path / "few.npz", *options)
    assert finished.returncode == 1
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1
