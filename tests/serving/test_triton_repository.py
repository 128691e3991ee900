"""vmoe-serve triton: the repository that it writes, what ONNX Runtime makes of its graphs, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from triton_server import MISSING, run_client

from vmoe_runtime import BackendError, Engine, library_path
from vmoe_runtime.bundle.reader import Bundle
from vmoe_serve.cli import main
from vmoe_serve.triton import command, target

OLD_BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
KINDS = sorted(path.name for path in OLD_BUNDLES.iterdir() if path.is_dir())

needs_client = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def write(*arguments: object, code: int = 0) -> None:
    assert main(["triton", *map(str, arguments)]) == code


def files_below(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object, code: int) -> str:
    """The one sentence on standard error of a command that fails."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == code
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("vmoe-serve: ")
    return line.removeprefix("vmoe-serve: ")


def read_configs(*paths: Path) -> list[dict[str, Any]]:
    """What files config.pbtxt say, by the protobuf of Triton's client; {"error": sentence} of one that is none."""
    configs: list[dict[str, Any]] = json.loads(run_client(Path(__file__).with_name("triton_config_check.py"), *paths))
    return configs


def as_triton_loads(folder: Path) -> onnxruntime.InferenceSession:
    """A model of the ONNX Runtime backend: by its file's path, with the op library that its configuration names."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(library_path())
    assert library_path() in (folder / "config.pbtxt").read_text()
    return onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), options, ["CPUExecutionProvider"])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_BUNDLES / "v3-fp32", tmp_path / "small.vmoe"))


@pytest.fixture(scope="module")
def mnist_image_bundle(mnist_image_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: repositories hold hard links to a bundle, and onnx's checker refuses one that has any."""
    return Path(shutil.copytree(mnist_image_bundle, tmp_path_factory.mktemp("own") / mnist_image_bundle.name))


@pytest.fixture(scope="module")
def mnist_bundle(mnist_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: repositories hold hard links to a bundle, and onnx's checker refuses one that has any."""
    return Path(shutil.copytree(mnist_bundle, tmp_path_factory.mktemp("own") / mnist_bundle.name))


def test_the_files_of_the_repository(mnist_image_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(mnist_image_bundle, tmp_path / "repo", "--backend", "both", "--profile", "c0.3-k1", "c1.05-k2", "--name", "digits")
    files = files_below(tmp_path / "repo")
    of_bundle = [path.name for path in mnist_image_bundle.iterdir()]
    assert sorted(files) == sorted(
        [
            "digits/config.pbtxt",
            "digits/1/model.py",
            *(f"digits/1/bundle.vmoe/{name}" for name in of_bundle),
            *(
                f"digits-{p}/{f}"
                for p in ("c0.3-k1", "c1.05-k2")
                for f in ("config.pbtxt", "1/model.onnx", "1/weights.safetensors")
            ),
            "vmoe-serve.json",
        ]
    )
    for name in of_bundle:
        assert files[f"digits/1/bundle.vmoe/{name}"].samefile(mnist_image_bundle / name)
    assert files["digits-c0.3-k1/1/weights.safetensors"].samefile(mnist_image_bundle / "weights.safetensors")
    with Bundle.open(tmp_path / "repo" / "digits" / "1" / "bundle.vmoe") as linked:
        linked.verify_weights()
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]
    assert capsys.readouterr().out.splitlines() == [
        "digits           on the engine at the setting of each request, else c0.3-k1",
        "digits-c0.3-k1   on ONNX Runtime at c0.3-k1",
        "digits-c1.05-k2  on ONNX Runtime at c1.05-k2",
        f"files of {mnist_image_bundle}: hard links, which take no space",
        f"tritonserver --model-repository={tmp_path / 'repo'}",
    ]


def test_files_are_copied_where_they_cannot_be_linked_to(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    write(bundle, tmp_path / "repo")
    copy = tmp_path / "repo" / "small" / "1" / "bundle.vmoe"
    for file in bundle.iterdir():
        assert (copy / file.name).read_bytes() == file.read_bytes() and not (copy / file.name).samefile(file)
    size = sum(file.stat().st_size for file in bundle.iterdir())
    assert f"files of {bundle}: {size / 1e6:.1f} MB were copied" in capsys.readouterr().out


def test_quiet_says_nothing(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(bundle, tmp_path / "repo", "-q")
    assert capsys.readouterr() == ("", "")


@needs_client
def test_triton_s_own_protobuf_reads_the_configurations(mnist_image_bundle: Path, tmp_path: Path) -> None:
    write(mnist_image_bundle, tmp_path / "r", "--name", "m", "--backend", "both", "--max-batch", 48, "--instances", 2)
    common = {
        "max_batch_size": 48,
        "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": ["28", "28", "1"]}],
        "dynamic_batching": {},
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
    }
    logits = {"name": "logits", "data_type": "TYPE_FP32", "dims": ["10"]}
    profiles = ("c0.3-k1", "c0.3-k2", "c1.05-k1", "c1.05-k2")
    names = ("m", *(f"m-{profile}" for profile in profiles))
    on_engine, *on_runtime = read_configs(*(tmp_path / "r" / name / "config.pbtxt" for name in names))
    assert on_engine == common | {
        "name": "m",
        "backend": "python",
        "output": [logits, {"name": "setting", "data_type": "TYPE_STRING", "dims": ["1"]}],
        "parameters": {"backend": {"string_value": "auto"}, "profile": {"string_value": "c0.3-k1"}},
    }
    for profile, config in zip(profiles, on_runtime, strict=True):
        assert config == common | {
            "name": f"m-{profile}",
            "backend": "onnxruntime",
            "output": [logits],
            "model_operations": {"op_library_filename": [library_path()]},
        }


@needs_client
def test_a_misspelt_field_is_noticed(bundle: Path, tmp_path: Path) -> None:
    write(bundle, tmp_path / "repo", "--backend", "onnxruntime", "--profile", "c0.5-k1")
    config = tmp_path / "repo" / "small-c0.5-k1" / "config.pbtxt"
    fields = ("max_batch_size", "op_library_filename", "dims", "dynamic_batching", "KIND_CPU")
    for field in fields:
        misspelt = field.replace("m", "n", 1) if "m" in field else field.lower()
        (tmp_path / field).write_text(config.read_text().replace(field, misspelt))
    right, *wrong = read_configs(config, *(tmp_path / field for field in fields))
    assert "error" not in right and len(wrong) == len(fields)
    for each in wrong:
        assert "has no field named" in each["error"] or "enum" in each["error"].lower()


@needs_client
def test_paths_of_any_letters_stand_in_a_configuration(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = '/opt/a "b" \\ ü/lib.so'
    monkeypatch.setattr(command, "library_path", lambda: odd)
    write(bundle, tmp_path / "repo", "--backend", "onnxruntime")
    for config in read_configs(*(tmp_path / "repo").glob("small-*/config.pbtxt")):
        assert config["model_operations"] == {"op_library_filename": [odd]}


@needs_client
def test_bundles_of_every_kind_are_configured(tmp_path: Path) -> None:
    for kind in KINDS:
        write(shutil.copytree(OLD_BUNDLES / kind, tmp_path / kind), tmp_path / f"{kind}-repo", "--name", "m")
    configs = read_configs(*(tmp_path / f"{kind}-repo" / "m" / "config.pbtxt" for kind in KINDS))
    for kind, config in zip(KINDS, configs, strict=True):
        with Bundle.open(tmp_path / kind) as opened:
            manifest = opened.manifest
        (image,) = config["input"]
        assert image["data_type"] == {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}[manifest.input.dtype], kind
        assert config["output"][0]["name"] == manifest.output, kind
        assert tuple(map(int, config["output"][0]["dims"])) == manifest.output_shape, kind
        assert len(config["output"]) == (2 if manifest.profiles else 1), kind


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "v3-bf16"])  # it routes in groups
def test_a_model_for_onnx_runtime_gives_the_bits_of_the_engine(kind: str, tmp_path: Path) -> None:
    source = Path(shutil.copytree(OLD_BUNDLES / kind, tmp_path / kind))
    write(source, tmp_path / "repo", "--name", "m", "--backend", "onnxruntime")
    with Engine.load(source, backend="onnxruntime") as engine:
        manifest = engine.manifest
        generator = np.random.default_rng(5)
        shape = (manifest.batch_multiple * 4, manifest.input.height, manifest.input.width, manifest.input.channels)
        images = engine.batch(generator.integers(0, 256, shape, np.uint8))
        profiles = list(manifest.profiles) or [None]
        assert len(list((tmp_path / "repo").iterdir())) == 1 + len(profiles)
        for profile in profiles:
            session = as_triton_loads(tmp_path / "repo" / f"m-{profile or 'onnxruntime'}")
            # Triton refuses a model whose inputs, types and shapes, but for the batch, are not those of its configuration.
            (taken,), (given,) = session.get_inputs(), session.get_outputs()
            element = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}[manifest.input.dtype]
            assert (taken.name, taken.type, taken.shape[1:]) == ("image", element, list(shape[1:]))
            assert (given.name, given.type, given.shape[1:]) == (
                manifest.output,
                "tensor(float)",
                list(manifest.output_shape),
            )
            assert not isinstance(taken.shape[0], int) and not isinstance(given.shape[0], int)
            assert session.get_overridable_initializers() == []
            (output,) = session.run(None, {"image": images})
            assert np.array_equal(output, engine(images, profile))


def test_digits_at_profiles_that_are_not_stored(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    profiles = ("c0.2-k1-pool-m4", "c0.4-k2-vanilla", "c8-k1")
    write(mnist_image_bundle, tmp_path / "repo", "--name", "m", "--backend", "onnxruntime", "--profile", *profiles)
    with Engine.load(mnist_image_bundle, backend="onnxruntime") as engine:
        images = engine.batch(mnist_images["images"][:32])
        answers = []
        for profile in profiles:
            (logits,) = as_triton_loads(tmp_path / "repo" / f"m-{profile}").run(None, {"image": images})
            assert np.array_equal(logits, engine(images, profile))
            answers.append(logits)
    assert not np.array_equal(answers[0], answers[1]) and not np.array_equal(answers[1], answers[2])


def test_a_fixed_graph_is_a_valid_model(bundle: Path, tmp_path: Path) -> None:
    write(bundle, tmp_path / "repo", "--backend", "onnxruntime")
    for folder in (tmp_path / "repo").glob("small-*"):
        model = onnx.load(folder / "1" / "model.onnx", load_external_data=False)
        # The checker takes no weights that are a hard link.
        copy = shutil.copytree(folder / "1", tmp_path / folder.name)
        onnx.checker.check_model(copy / "model.onnx")
        names = [tensor.name for tensor in model.graph.initializer]
        assert len(names) == len(set(names)) and {"capacity", "k", "bpr", "pool", "max_experts"} <= set(names)
        original = onnx.load(bundle / "model.onnx", load_external_data=False)
        assert model.graph.node == original.graph.node and model.functions == original.functions


def test_force_replaces_a_repository_and_nothing_else(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = tmp_path / "repo"
    write(bundle, repo, "--name", "one")
    cache = repo / "one" / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"as Triton leaves it")
    assert "exists; --force replaces it" in complaint(capsys, "triton", bundle, repo, code=1)
    write(bundle, repo, "--name", "two", "--force")
    assert sorted(path.name for path in repo.iterdir()) == ["two", "vmoe-serve.json"]
    (repo / "elsewhere").symlink_to(tmp_path)
    assert "holds 'elsewhere', which" in complaint(capsys, "triton", bundle, repo, "--force", code=1)
    (repo / "elsewhere").unlink()
    (repo / "two" / "labels.txt").write_text("mine")
    says = complaint(capsys, "triton", bundle, repo, "--force", code=1)
    assert says == f"{repo} holds 'two/labels.txt', which vmoe-serve didn't write, so it is not replaced"
    assert (repo / "two" / "labels.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo", "small.vmoe"]


@pytest.mark.parametrize(
    "marker", [None, "", "[]", '{"format": "other"}', '{"format": "vmoe-triton-repository", "files": 1}']
)
def test_force_does_not_replace_what_others_wrote(
    bundle: Path, tmp_path: Path, marker: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    if marker is not None:
        (repo / "vmoe-serve.json").write_text(marker)
    says = complaint(capsys, "triton", bundle, repo, "--force", code=1)
    assert says == f"{repo} exists and was not written by vmoe-serve, so it is not replaced"


def test_force_does_not_replace_a_link(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(bundle, tmp_path / "real")
    (tmp_path / "repo").symlink_to("real")
    assert "was not written by" in complaint(capsys, "triton", bundle, tmp_path / "repo", "--force", code=1)


def test_a_repository_that_was_there_stays_where_the_new_one_fails(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = tmp_path / "repo"
    write(bundle, repo)
    before = {name: path.read_bytes() for name, path in files_below(repo).items()}
    real = Path.rename

    def failing_once(self: Path, to: Path) -> Path:
        if to == repo and not failures:
            failures.append(self)
            raise OSError(errno.ENOSPC, "No space left on device", str(to))
        return real(self, to)

    failures: list[Path] = []
    monkeypatch.setattr(Path, "rename", failing_once)
    assert "No space left" in complaint(capsys, "triton", bundle, repo, "--force", "--name", "new", code=1)
    assert {name: path.read_bytes() for name, path in files_below(repo).items()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo", "small.vmoe"]


def test_ctrl_c_leaves_nothing_behind(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", interrupt)
    assert complaint(capsys, "triton", bundle, tmp_path / "repo", code=130) == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["small.vmoe"]


def test_a_repository_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with (
        pytest.raises(target.CommandError, match="exists"),
        target.written_beside(tmp_path / "repo", force=False) as folder,
    ):
        (folder / "new").touch()
        (tmp_path / "repo").mkdir()
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "a subcommand is missing"),
        (["tritons"], 2, "'tritons' is none of its subcommands"),
        (["triton"], 2, "required: BUNDLE, REPO"),
        (["triton", "{bundle}"], 2, "required: REPO"),
        (["triton", "{bundle}", "{repo}", "--backend", "abacus"], 2, "invalid choice: 'abacus'"),
        (["triton", "{bundle}", "{repo}", "--max-batch", "0"], 2, "--max-batch: must be a whole number from 1"),
        (["triton", "{bundle}", "{repo}", "--instances", "x"], 2, "--instances: must be a whole number from 1"),
        (["triton", "{bundle}", "{repo}", "--name", "a/b"], 2, "--name: must be 1 to 100 of A-Z"),
        (["triton", "{bundle}", "{repo}", "--name", ".a"], 2, "--name: must be 1 to 100 of A-Z"),
        (["triton", "{bundle}", "{repo}", "--profile", "fast"], 2, "there is no profile 'fast'"),
        (["triton", "{bundle}", "{repo}", "--profile", "c0.5-k99"], 2, "99"),
        (["triton", "absent.vmoe", "{repo}"], 1, "absent.vmoe is not a bundle"),
        (["triton", "{bundle}", "nowhere/repo"], 1, "nowhere is not there; make the folder first"),
        (["triton", "{bundle}", ".."], 1, "'..' is not a name for a repository"),
        (["triton", "{bundle}", "{bundle}", "--force"], 1, "was not written by vmoe-serve"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], code: int, says: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(bundle=bundle, repo=tmp_path / "repo") for word in arguments]
    assert says in complaint(capsys, *words, code=code)
    assert [path.name for path in tmp_path.iterdir()] == ["small.vmoe"]


def test_changed_weights_are_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((bundle / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "weights.safetensors").write_bytes(data)
    says = complaint(capsys, "triton", bundle, tmp_path / "repo", code=1)
    assert "weights.safetensors was changed after export" in says and not (tmp_path / "repo").exists()


def test_a_bundle_with_nothing_to_set_has_no_profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("v3-dense", "v3-soft"):
        source = shutil.copytree(OLD_BUNDLES / kind, tmp_path / kind)
        says = complaint(capsys, "triton", source, tmp_path / "repo", "--profile", "c1-k1", code=2)
        assert says == "the bundle has nothing to set: it has no profile 'c1-k1'"


def test_without_the_op_library_there_is_no_model_for_onnx_runtime(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> str:
        raise BackendError("this installation of vmoe-export has no op library")

    monkeypatch.setattr(command, "library_path", missing)
    says = complaint(capsys, "triton", bundle, tmp_path / "repo", "--backend", "both", code=1)
    assert says == "--backend both needs the op library: this installation of vmoe-export has no op library"
    write(bundle, tmp_path / "repo")


def test_routing_groups_of_several_images(mnist_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says = complaint(capsys, "triton", mnist_bundle, tmp_path / "repo", "--backend", "onnxruntime", code=1)
    assert "routes in groups (16)" in says and "--group image" in says and "--backend python" in says
    says = complaint(capsys, "triton", mnist_bundle, tmp_path / "repo", "--max-batch", 20, code=2)
    assert says == "--max-batch 20 doesn't fit: the bundle routes in groups (16) that need a multiple of 16"
    for asked, given in (([], 32), (["--max-batch", 64], 64)):
        write(mnist_bundle, tmp_path / "repo", "--force", *asked)
        assert f"max_batch_size: {given}\n" in (tmp_path / "repo" / "mnist" / "config.pbtxt").read_text()


def test_the_command_runs_without_torch_and_the_exporter(bundle: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from vmoe_serve.cli import main; code = main();"
        "print({'torch', 'onnx', 'click', 'vmoe_export', 'google.protobuf'} & set(sys.modules), file=sys.stderr);"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "triton", bundle, tmp_path / "repo", "--backend", "both"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "set()\n")


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["triton", "--help"])
    assert stopped.value.code == 0
    assert "vmoe-serve triton BUNDLE REPO [options]" in capsys.readouterr().out
