"""Tests of `vmoe serve triton`.

They check the model repository that the command writes, run the repository's graphs in ONNX Runtime, and check what the
command refuses.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import onnx
import onnxruntime
import pytest
import triton_server
from bundle_changes import BUNDLES, flipped
from command_runs import Vmoe
from damaged_files import everything
from triton_server import MISSING, run_client

from vmoe_runtime import BackendError, Engine, library_path
from vmoe_runtime.bundle.reader import Bundle
from vmoe_serve.triton import command
from vmoe_tools.program import main

KINDS = sorted(path.name for path in BUNDLES.iterdir() if path.is_dir())

needs_client = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def write(*arguments: object, code: int = 0) -> None:
    assert main(["serve", "triton", *map(str, arguments)]) == code


def read_configs(*paths: Path) -> list[dict[str, Any]]:
    """Read config.pbtxt files with the protobuf definitions of Triton's client."""
    script = Path(triton_server.__file__).with_name("triton_config_check.py")
    configs: list[dict[str, Any]] = json.loads(run_client(script, *paths))
    return configs


def as_triton_loads(folder: Path) -> onnxruntime.InferenceSession:
    """Load a model in ONNX Runtime in the same way as Triton.

    The model is loaded by its path, with the op library given in config.pbtxt.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(library_path())
    assert library_path() in (folder / "config.pbtxt").read_text()
    return onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), options, ["CPUExecutionProvider"])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "v3-fp32", tmp_path / "small.vmoe"))


@pytest.fixture(scope="module")
def mnist_image_bundle(mnist_image_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the bundle, because onnx's checker refuses files with hard links.

    Repositories contain hard links to the files of their bundle.
    """
    return Path(shutil.copytree(mnist_image_bundle, tmp_path_factory.mktemp("own") / mnist_image_bundle.name))


def test_the_files_of_the_repository(mnist_image_bundle: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    profiles = ["--profile", "c0.3-k1", "--profile", "c1.05-k2"]
    repo = tmp_path / "repo"
    words = (mnist_image_bundle, repo, "--backend", "both", *profiles, "--name", "digits")
    out, _ = vmoe.run("serve", "triton", *words)
    of_bundle = [path.name for path in mnist_image_bundle.iterdir() if path.name != "README.md"]
    assert sorted(str(path.relative_to(repo)) for path in repo.rglob("*") if path.is_file()) == sorted(
        [
            "digits/config.pbtxt",
            "digits/1/model.py",
            *(f"digits/1/bundle.vmoe/{name}" for name in of_bundle),
            *(
                f"digits-{profile}/{file}"
                for profile in ("c0.3-k1", "c1.05-k2")
                for file in ("config.pbtxt", "1/model.onnx", "1/weights.safetensors")
            ),
            "vmoe-serve.json",
        ]
    )
    for name in of_bundle:
        assert (repo / "digits" / "1" / "bundle.vmoe" / name).samefile(mnist_image_bundle / name)
    weights = repo / "digits-c0.3-k1" / "1" / "weights.safetensors"
    assert weights.samefile(mnist_image_bundle / "weights.safetensors")
    with Bundle.open(repo / "digits" / "1" / "bundle.vmoe") as linked:
        linked.verify_weights()
    assert f"tritonserver --model-repository={repo}" in out
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


def test_files_are_copied_where_they_cannot_be_linked_to(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert "MB copied" in vmoe.run("serve", "triton", bundle, tmp_path / "repo")[0]
    for file in bundle.iterdir():
        copy = tmp_path / "repo" / "small" / "1" / "bundle.vmoe" / file.name
        assert copy.read_bytes() == file.read_bytes() and not copy.samefile(file)


def test_a_bundle_at_an_address_is_named_by_it(bundle: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    fsspec.filesystem("memory").put(str(bundle), "/zoo.vmoe", recursive=True)
    assert "files of memory://zoo.vmoe: " in vmoe.run("serve", "triton", "memory://zoo.vmoe", tmp_path / "repo")[0]
    with Bundle.open(tmp_path / "repo" / "zoo" / "1" / "bundle.vmoe") as linked:
        linked.verify_weights()


@needs_client
def test_triton_s_own_protobuf_reads_the_configurations(
    mnist_image_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = '/opt/a "b" \\ ü/lib.so'
    monkeypatch.setattr(command, "library_path", lambda: odd)
    options = ("--name", "m", "--backend", "both", "--batch-size", 48, "--profile", "c0.3-k1")
    write(mnist_image_bundle, tmp_path / "r", *options, "--instances", 2, "--threads", 1)
    for kind in KINDS:
        write(shutil.copytree(BUNDLES / kind, tmp_path / kind), tmp_path / f"{kind}-repo", "--name", "m")
    common = {
        "max_batch_size": 48,
        "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": ["28", "28", "1"]}],
        "dynamic_batching": {},
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
    }
    logits = {"name": "logits", "data_type": "TYPE_FP32", "dims": ["10"]}
    softmax, one = {"probabilities": {"string_value": "softmax"}}, {"string_value": "1"}
    names = [tmp_path / "r" / "m", tmp_path / "r" / "m-c0.3-k1", *(tmp_path / f"{kind}-repo" / "m" for kind in KINDS)]
    on_engine, on_runtime, *of_kinds = read_configs(*(name / "config.pbtxt" for name in names))
    assert on_engine == common | {
        "name": "m",
        "backend": "python",
        "output": [logits, {"name": "setting", "data_type": "TYPE_STRING", "dims": ["1"]}],
        "parameters": {
            "backend": {"string_value": "auto"},
            "profile": {"string_value": "c0.3-k1"},
            "threads": one,
            **softmax,
        },
    }
    assert on_runtime == common | {
        "name": "m-c0.3-k1",
        "backend": "onnxruntime",
        "output": [logits],
        "parameters": {"intra_op_thread_count": one, **softmax},
        "model_operations": {"op_library_filename": [odd]},
    }
    for kind, config in zip(KINDS, of_kinds, strict=True):
        with Bundle.open(tmp_path / kind) as opened:
            manifest = opened.manifest
        assert config["input"][0]["data_type"] == {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}[manifest.input.dtype], kind
        assert config["output"][0]["name"] == manifest.output, kind
        assert tuple(map(int, config["output"][0]["dims"])) == manifest.output_shape, kind
        assert len(config["output"]) == (2 if manifest.profiles else 1), kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_for_onnx_runtime_gives_the_bits_of_the_engine(kind: str, tmp_path: Path) -> None:
    source = Path(shutil.copytree(BUNDLES / kind, tmp_path / kind))
    with Engine.load(source, backend="onnxruntime") as engine:
        manifest = engine.manifest
        if manifest.batch_multiple > 1:
            return write(source, tmp_path / "repo", "--name", "m", "--backend", "onnxruntime", code=1)
        write(source, tmp_path / "repo", "--name", "m", "--backend", "onnxruntime")
        shape = (4, manifest.input.height, manifest.input.width, manifest.input.channels)
        images = engine.batch(np.random.default_rng(5).integers(0, 256, shape, np.uint8))
        for profile in list(manifest.profiles) or [None]:
            session = as_triton_loads(tmp_path / "repo" / f"m-{profile or 'onnxruntime'}")
            # Triton refuses a model if an input, a type or a shape differs from that in the model's configuration. Only the
            # batch size may differ.
            (taken,), (given,) = session.get_inputs(), session.get_outputs()
            element = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}[manifest.input.dtype]
            assert (taken.name, taken.type, taken.shape[1:]) == ("image", element, list(shape[1:]))
            assert (given.name, given.shape[1:]) == (manifest.output, list(manifest.output_shape))
            assert not isinstance(taken.shape[0], int) and not isinstance(given.shape[0], int)
            assert session.get_overridable_initializers() == []
            (output,) = session.run(None, {"image": images})
            assert np.array_equal(output, engine(images, profile))
    return None


def test_digits_at_profiles_that_are_not_stored(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    profiles = ("c0.2-k1-pool-m4", "c0.4-k2-vanilla", "c8-k1")
    words = [word for profile in profiles for word in ("--profile", profile)]
    write(mnist_image_bundle, tmp_path / "repo", "--name", "m", "--backend", "onnxruntime", *words)
    with Engine.load(mnist_image_bundle, backend="onnxruntime") as engine:
        images = engine.batch(mnist_images["images"][:32])
        for profile in profiles:
            folder = tmp_path / "repo" / f"m-{profile}"
            (logits,) = as_triton_loads(folder).run(None, {"image": images})
            assert np.array_equal(logits, engine(images, profile))
    # Check a copy, because onnx's checker refuses weights with hard links.
    copy = shutil.copytree(folder / "1", tmp_path / "copy")
    onnx.checker.check_model(copy / "model.onnx")


def test_force_replaces_a_repository_and_nothing_else(bundle: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    repo = tmp_path / "repo"
    write(bundle, repo, "--name", "one")
    cache = repo / "one" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"as Triton leaves it")
    assert "exists; --force replaces it" in vmoe.complaint(1, "serve", "triton", bundle, repo)
    write(bundle, repo, "--name", "two", "--force")
    assert sorted(path.name for path in repo.iterdir()) == ["two", "vmoe-serve.json"]
    (repo / "elsewhere").symlink_to(tmp_path)
    assert "holds 'elsewhere', which" in vmoe.complaint(1, "serve", "triton", bundle, repo, "--force")
    (repo / "elsewhere").unlink()
    (repo / "two" / "labels.txt").write_text("mine")
    assert "holds 'two/labels.txt', which" in vmoe.complaint(1, "serve", "triton", bundle, repo, "--force")
    assert (repo / "two" / "labels.txt").exists()
    (tmp_path / "link").symlink_to("repo")
    assert "was not written by" in vmoe.complaint(1, "serve", "triton", bundle, tmp_path / "link", "--force")
    for marker in ("", "[]", '{"format": "other"}', '{"format": "vmoe-triton-repository", "files": 1}'):
        (repo / "vmoe-serve.json").write_text(marker)
        assert "was not written by" in vmoe.complaint(1, "serve", "triton", bundle, repo, "--force")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "repo", "small.vmoe"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_was_there_stays_where_the_new_one_fails(
    error: BaseException, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "repo"
    write(bundle, repo)
    before = everything(repo)
    real = Path.rename

    def failing_once(self: Path, to: Path) -> Path:
        if to == repo and not failures:
            failures.append(self)
            raise error
        return real(self, to)

    failures: list[Path] = []
    monkeypatch.setattr(Path, "rename", failing_once)
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
    write(bundle, repo, "--force", "--name", "new", code=code)
    assert everything(repo) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo", "small.vmoe"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{bundle}"], 2, "REPO"),
        (["{bundle}", "{repo}", "--backend", "abacus"], 2, "--backend"),
        (["{bundle}", "{repo}", "--batch-size", "0"], 2, "--batch-size"),
        (["{bundle}", "{repo}", "--name", "a/b"], 2, "1 to 100 of A-Z"),
        (["{bundle}", "{repo}", "--profile", "fast"], 2, "there is no profile 'fast'"),
        (["{dense}", "{repo}", "--profile", "c1-k1"], 2, "nothing to set"),
        (["absent.vmoe", "{repo}"], 1, "absent.vmoe is not a bundle"),
        (["{damaged}", "{repo}"], 1, "weights.safetensors was changed after export"),
        (["{bundle}", "nowhere/repo"], 1, "nowhere is not a folder; make it first"),
        (["{bundle}", ".."], 1, "'..' is not a name for a repository"),
        (["{bundle}", "{bundle}", "--force"], 1, "was not written by"),
        (["{grouped}", "{repo}", "--backend", "onnxruntime"], 1, "--group image, or take --backend python"),
        (["{grouped}", "{repo}", "--batch-size", "20"], 2, "--batch-size 20 doesn't fit"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], code: int, message: str, bundle: Path, mnist_bundle: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged.vmoe")
    flipped("weights.safetensors")(damaged)
    dense = next(BUNDLES.glob("*-dense"))
    names = {"bundle": bundle, "damaged": damaged, "dense": dense, "grouped": mnist_bundle, "repo": tmp_path / "repo"}
    assert message in vmoe.complaint(code, "serve", "triton", *(word.format(**names) for word in arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.vmoe", "small.vmoe"]


def test_without_the_op_library_there_is_no_model_for_onnx_runtime(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    def missing() -> str:
        raise BackendError("this installation of vmoe-export has no op library")

    monkeypatch.setattr(command, "library_path", missing)
    assert "--backend both needs the op library" in vmoe.complaint(
        1, "serve", "triton", bundle, tmp_path / "repo", "--backend", "both"
    )
    write(bundle, tmp_path / "repo")
