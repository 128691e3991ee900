"""Wrong arguments of the Python functions, and what happens around an export: other writers, and signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from damaged_files import DENSE, SPARSE
from PIL import Image

from vmoe_export import ConfigError, ExportError, OptionError, export_bundle
from vmoe_export.bundle.bundle_writer import new_bundle
from vmoe_runtime import BackendError, BundleError, Engine, ImageError
from vmoe_runtime.backends.openvino_cpu import OpenVinoBackend
from vmoe_runtime.bundle.reader import Bundle

WRONG: Mapping[str, Any] = MappingProxyType(
    {
        "capacity": 0.3,
        "k": 1,
        "group": 16,
        "batch": "8",
        "image_size": 28,
        "config": [1],
        "input": "uint16",
        "output": "probs",
        "rounding": "down",
        "bpr": "no",
        "dispatch_bf16": "false",
        "precision": "int4",
        "capacity_multiple_of": 0,
        "class_names": 10,
    }
)


@pytest.mark.parametrize("option", WRONG)
def test_an_option_of_the_wrong_type_or_value_is_named(option: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"^{option} "):
        export_bundle(SPARSE, tmp_path / "x.vmoe", **{option: WRONG[option]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [{"capacity": [0.3]}, {"k": [1]}, {"bpr": False}, {"group": "16"}, {"batch": 2}, {"dispatch_bf16": True}],
    ids=lambda option: next(iter(option)),
)
def test_a_dense_model_refuses_what_only_means_something_to_experts(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"dense ViT.* {next(iter(option))}$"):
        export_bundle(DENSE, tmp_path / "x.vmoe", **option)


@pytest.mark.parametrize(
    ("dispatcher", "router", "name"),
    [({"bfloat16": "false"}, {}, "bfloat16"), ({}, {"num_selected_experts": True}, "num_selected_experts")],
    ids=["bfloat16 as text", "k as a truth value"],
)
def test_a_config_value_of_the_wrong_type_is_named(
    dispatcher: dict[str, Any], router: dict[str, Any], name: str, tmp_path: Path
) -> None:
    config = {"encoder": {"moe": {"router": {**router, "dispatcher": dispatcher}}}}
    with pytest.raises(ConfigError, match=name):
        export_bundle(SPARSE, tmp_path / "x.vmoe", config=config)


def test_a_config_may_leave_the_encoder_out(tmp_path: Path) -> None:
    export_bundle(SPARSE, tmp_path / "x.vmoe", config={"encoder": None}, validate=False)
    assert (tmp_path / "x.vmoe" / "manifest.json").is_file()


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_at_the_target_during_an_export_is_kept(tmp_path: Path, force: bool) -> None:
    target = tmp_path / "x.vmoe"
    with pytest.raises(ExportError, match="exists"), new_bundle(target, force=force) as folder:
        (folder / "weights.safetensors").write_bytes(b"new")
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    assert [path.name for path in tmp_path.iterdir()] == ["x.vmoe"]
    assert (target / "thesis.txt").read_text() == "years of work"


def test_a_command_ended_by_a_signal_takes_its_temporary_folder_away(tmp_path: Path) -> None:
    # The process ends itself in the middle of the export: as soon as its temporary folder is there.
    program = (
        "import os, signal, sys\n"
        "import vmoe_export.bundle.weights_file as weights\n"
        "weights._layout = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from vmoe_export.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, str(SPARSE), "-o", str(tmp_path / "x.vmoe")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_pixels_of_more_than_8_bits_are_refused(mnist_image_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.linspace(0, 65535, 784).reshape(28, 28).astype(np.uint16)).save(path)
    with Engine.load(mnist_image_bundle) as engine, pytest.raises(ImageError, match=r"deep\.png.*8 bits"):
        engine(path)


def test_openvino_refuses_groups_that_overflow_its_integers(mnist_bundle: Path) -> None:
    bundle = Bundle.open(mnist_bundle)
    assert bundle.manifest.rules is not None
    rules = replace(bundle.manifest.rules, group_tokens=46_341)
    with pytest.raises(BackendError, match="46340 tokens"):
        OpenVinoBackend.for_bundle(replace(bundle, manifest=replace(bundle.manifest, rules=rules)), None)


@pytest.mark.parametrize(("version", "tokens"), [(1, 4097), (2, 4097), (2, 46_340)])
def test_openvino_refuses_large_groups_of_older_graphs(version: int, tokens: int, mnist_bundle: Path) -> None:
    bundle = Bundle.open(mnist_bundle)
    assert bundle.manifest.rules is not None
    rules = replace(bundle.manifest.rules, group_tokens=tokens)
    with pytest.raises(BackendError, match=f"4096 tokens exactly in bundles of format version {version}.*export it again"):
        OpenVinoBackend.for_bundle(replace(bundle, manifest=replace(bundle.manifest, version=version, rules=rules)), None)
    newer = replace(bundle.manifest, version=3, rules=rules)
    assert OpenVinoBackend.for_bundle(replace(bundle, manifest=newer), None).description.startswith("OpenVINO")


def test_a_graph_file_of_gigabytes_is_refused_before_it_is_read(mnist_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "b.vmoe"
    shutil.copytree(mnist_bundle, bundle)
    with (bundle / "extra.onnx").open("wb") as file:
        os.truncate(file.fileno(), 64 << 30)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["extra.onnx"] = {"sha256": "0" * 64, "bytes": 64 << 30}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    for verify in (True, False):
        with pytest.raises(BundleError, match=r"extra\.onnx is larger than 64 MiB"):
            Engine.load(bundle, verify=verify)


@pytest.mark.parametrize(("section", "key"), [("input", "height"), ("input", "channels"), (None, "batch_multiple")])
def test_sizes_that_no_memory_holds_are_refused(mnist_bundle: Path, tmp_path: Path, section: str | None, key: str) -> None:
    bundle = tmp_path / "b.vmoe"
    shutil.copytree(mnist_bundle, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (manifest[section] if section else manifest)[key] = 2**52
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=key):
        Engine.load(bundle)
