"""Functions that make checkpoints and bundles with one fault each, and check the resulting errors."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import onnx
import pytest
import safetensors.numpy
from official_writer import CHUNKS_KEY, INDEX_INFO, ND_SLICE, NDARRAY, nest, write_checkpoint

from vmoe_export import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SPARSE, DENSE = GOLDEN / "g1", GOLDEN / "g4"  # SPARSE has 8 experts in each of blocks 1 and 3; DENSE has no experts

Tensors = dict[str, np.ndarray]
Edit = Callable[[Any], None]
Build = Callable[[Path], Path]


def assert_one_sentence(sentence: str, *names: str) -> None:
    """Assert that an error message is one readable line that contains `names`."""
    assert sentence.strip() == sentence != ""
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    sentence.encode()
    for name in names:
        assert name in sentence


@contextmanager
def refusal(error: type[Exception], *names: str) -> Iterator[None]:
    """Assert that the block raises `error`, and that its message is one line that contains `names`."""
    with pytest.raises(error) as refused:
        yield
    assert_one_sentence(str(refused.value), *names)


def put(path: str, value: Any) -> Edit:
    """Return an edit that sets the field at `path` in nested mappings and lists.

    For example, `put("profiles/0/k", 9)`. If `value` is `...`, the edit removes the field.
    """

    def edit(content: Any) -> None:
        *parents, last = path.split("/")
        for key in parents:
            content = content[int(key) if isinstance(content, list) else key]
        if value is ...:
            del content[last]
        else:
            content[int(last) if isinstance(content, list) else last] = value

    return edit


def drop(path: str) -> Edit:
    """Remove one field."""
    return put(path, ...)


def read_tensors(path: Path = SPARSE) -> Tensors:
    """Return copies of a checkpoint's tensors. The default is the golden checkpoint with experts."""
    with open_checkpoint(path) as checkpoint:
        return dict(checkpoint)


def assert_holds(path: Path, format: str, expected: Mapping[str, np.ndarray]) -> None:
    """Assert that a checkpoint has the format `format`, and exactly the tensors `expected`, bit for bit."""
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == format
        assert list(checkpoint) == sorted(expected)
        for name, array in expected.items():
            info, found = checkpoint.info[name], checkpoint[name]
            assert (info.shape, info.dtype) == (found.shape, found.dtype) == (array.shape, array.dtype)
            assert found.tobytes() == array.tobytes()


def written(folder: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """Write the tensors as an official checkpoint named `ckpt`, and return the path of the checkpoint."""
    write_checkpoint(folder / "ckpt", nest(tensors))
    return folder / "ckpt"


def copied_checkpoint(folder: Path, source: Path = SPARSE, name: str = "ckpt") -> Path:
    """Copy an official checkpoint to `name` in a folder, file by file, and return the path of the copy."""
    for file in source.parent.glob(f"{source.name}.*"):
        if file.suffix not in {".json", ".npz"}:
            shutil.copyfile(file, folder / file.name.replace(source.name, name, 1))
    return folder / name


def array_entry(
    shape: Any, dtype: Any = "float32", slices: Any = None, shards: Any = None, code: int = INDEX_INFO
) -> msgpack.ExtType:
    """Return an array's entry in the index of an official checkpoint.

    Each item of `slices` contains a (start, stop) pair for each dimension. By default, one slice covers the whole array.
    """
    slices = [[(0, extent) for extent in shape]] if slices is None else slices
    boxes = [msgpack.packb([msgpack.packb((*bounds, None)) for bounds in box]) for box in slices]
    shaped = msgpack.packb((shape, dtype, False, {}))
    payload = msgpack.packb((shaped, boxes, [0] * len(slices) if shards is None else shards))
    return msgpack.ExtType(code, payload)


def chunk(values: int = 48, dtype: str = "float32", data: bytes | None = None, start: int = 0, stop: int = 48) -> list[Any]:
    """Return a chunk of a 1-D array in the form in which a shard stores it.

    By default, the chunk is a whole float32[48] array.
    """
    body = msgpack.packb(((values,), dtype, b"\0" * 4 * values if data is None else data))
    box = msgpack.packb([msgpack.packb((start, stop, None))])
    return [[msgpack.ExtType(NDARRAY, body)], msgpack.ExtType(ND_SLICE, box)]


def edited_shard(folder: Path, edit: Edit) -> Path:
    """Write the dense golden checkpoint as `ckpt`, and apply `edit` to the map in its only shard.

    Return the path of `ckpt`. The map's key "0" contains the chunks of the first array, Encoder/encoder_norm/bias, which is
    a float32[48].
    """
    prefix = copied_checkpoint(folder, DENSE)
    shard = folder / "ckpt.data-00000-of-00001"
    content = msgpack.unpackb(shard.read_bytes())
    edit(content)
    shard.write_bytes(msgpack.packb(content))
    return prefix


def index_of(folder: Path, leaf: Any, **fields: Any) -> Path:
    """Write a checkpoint `ckpt` with an empty shard, and return its path.

    The checkpoint's index has one array, `embedding/kernel`, with the entry `leaf`. `fields` replace or extend the fields of
    the index.
    """
    index = {"shard_count": 1, "index": {"embedding": {"kernel": leaf}}, "version": "20220622", **fields}
    (folder / "ckpt.index").write_bytes(msgpack.packb(index))
    (folder / "ckpt.data-00000-of-00001").write_bytes(msgpack.packb({CHUNKS_KEY: True}))
    return folder / "ckpt"


def copied_bundle(source: Path, target: Path, edit: Edit | None = None, files: Mapping[str, bytes] | None = None) -> Path:
    """Copy a bundle, replace `files`, update their SHA-256 and size, and then apply `edit` to the manifest.

    `files` maps file names to new contents.
    """
    shutil.copytree(source, target)
    manifest = json.loads((target / "manifest.json").read_bytes())
    for name, data in (files or {}).items():
        (target / name).write_bytes(data)
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    if edit is not None:
        edit(manifest)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def edited_graph(bundle: Path, edit: Edit, name: str = "model.inlined.onnx") -> bytes:
    """Apply `edit` to the ModelProto of a bundle's graph, and return the bytes of the edited graph."""
    model = onnx.load(bundle / name, load_external_data=False)
    edit(model)
    return model.SerializeToString()


def with_nan_weights(bundle: Path, target: Path) -> Path:
    """Copy a bundle, and set the head's bias to NaN in the copy."""
    data = (bundle / "weights.safetensors").read_bytes()
    bias = safetensors.numpy.load(data)["head/bias"]
    assert data.count(bias.tobytes()) == 1
    files = {"weights.safetensors": data.replace(bias.tobytes(), np.full_like(bias, np.nan).tobytes())}
    return copied_bundle(bundle, target, files=files)


def unknown_op(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nonsense"


def unknown_tensor(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def weights_of_another_shape(model: onnx.ModelProto) -> None:
    next(tensor for tensor in model.graph.initializer if tensor.external_data).dims[0] *= 2


def weights_without_a_location(model: onnx.ModelProto) -> None:
    del next(tensor for tensor in model.graph.initializer if tensor.external_data).external_data[:]


GRAPH_FAULTS = (unknown_op, unknown_tensor, weights_of_another_shape, weights_without_a_location)
"""Changes to a graph that no runtime loads."""


def external_tensor(**entries: str) -> onnx.TensorProto:
    """Return a float32[1] tensor with external data. By default, the data are the first bytes of the weights file."""
    tensor = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "weights.safetensors", "offset": "0", "length": "4", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def everything(folder: Path) -> dict[str, bytes]:
    """Return every path under a folder, with the content of each regular file and b"" for anything else."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        for path in sorted(folder.rglob("*"))
    }


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Return the content of each file in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
