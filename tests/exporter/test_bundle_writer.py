"""Check that `--force` replaces an existing bundle, but no other files and no inputs of the export."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_changes import WEIGHTS, linked, listed, replaced
from command_runs import Refuse
from damaged_files import DENSE, copied_bundle, copied_checkpoint, everything

from vmoe_export import ExportError, export_bundle
from vmoe_export.bundle import bundle_writer
from vmoe_export.bundle.bundle_writer import new_bundle
from vmoe_runtime.bundle.reader import Bundle

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("exported") / "x.vmoe"
    export_bundle(DENSE, bundle, validate=False)
    return bundle


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return copied_bundle(exported, tmp_path / "x.vmoe")


def write_over(target: Path, **settings: bool) -> None:
    """Replace `target` by a new bundle that contains only one small file and a manifest."""
    with new_bundle(target, force=True, **settings) as folder:
        (folder / "weights.safetensors").write_bytes(b"new")
        (folder / "manifest.json").write_text('{"format": "vmoe-bundle", "files": {"weights.safetensors": {}}}')


# Each of these functions adds a foreign file to a bundle.


def claim_file(bundle: Path) -> None:
    listed("thesis.txt")(bundle)
    (bundle / "thesis.txt").write_text("years of work")


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda bundle: (bundle / "thesis.txt").write_text("years of work"), "thesis.txt"),
    "a link": (lambda bundle: (bundle / "latest.onnx").symlink_to("model.onnx"), "latest.onnx"),
    "a graph of somebody else": (lambda bundle: (bundle / "tuned.onnx").write_bytes(b"mine"), "tuned.onnx"),
    "a link under a listed name": (linked(WEIGHTS), WEIGHTS),
    "a file that the manifest claims": (claim_file, "thesis.txt"),
    "a manifest that is a pipe": (replaced("manifest.json", os.mkfifo), "not a bundle"),
}


@pytest.mark.parametrize(("change", "name"), FOREIGN.values(), ids=FOREIGN)
def test_a_bundle_that_holds_more_is_kept(
    change: Callable[[Path], object], name: str, bundle: Path, refuse_export: Refuse
) -> None:
    change(bundle)
    refuse_export(DENSE, "--force", names=["x.vmoe", name])


def test_a_damaged_bundle_may_be_replaced(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    (bundle / "weights.safetensors").write_bytes(b"cut")
    write_over(bundle)
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "weights.safetensors"]
    assert [path.name for path in bundle.parent.iterdir()] == ["x.vmoe"]


# Inputs of the export.


def link(source: Path, target: Path) -> Path:
    source.symlink_to(target)
    return source


def linked_shards(bundle: Path) -> Path:
    prefix = copied_checkpoint(bundle.parent, DENSE)
    shard = prefix.with_name("ckpt.data-00000-of-00001")
    shard.replace(bundle / "model.onnx")
    shard.symlink_to(bundle / "model.onnx")
    return prefix


SOURCES: dict[str, Callable[[Path], Path]] = {
    "the bundle itself": lambda bundle: bundle,
    "a link to the bundle": lambda bundle: link(bundle.parent / "link", bundle),
    "its weights as checkpoint": lambda bundle: bundle / "weights.safetensors",
    "a link to its weights": lambda bundle: link(bundle.parent / "ckpt.safetensors", bundle / "weights.safetensors"),
    "shards that link inside": linked_shards,
}


@pytest.mark.parametrize("arrange", SOURCES.values(), ids=SOURCES)
def test_what_is_exported_is_kept(arrange: Callable[[Path], Path], bundle: Path, refuse_export: Refuse) -> None:
    refuse_export(arrange(bundle), "--force", names=["x.vmoe", "contains"])


@pytest.mark.parametrize("option", ["--config", "--class-names"])
def test_another_file_that_is_read_is_kept(option: str, bundle: Path, refuse_export: Refuse) -> None:
    read = str(bundle / "manifest.json")
    refuse_export(DENSE, "--force", option, read, names=["contains", read])


@pytest.mark.parametrize(("name", "word"), [("../x.vmoe", "folder you are in"), (".", "name"), ("..", "name")])
def test_the_current_folder_is_kept(
    name: str, word: str, bundle: Path, refuse_export: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    refuse_export(DENSE, "-o", name, "--force", names=[word])


# The swap.


@pytest.fixture(params=["in one step", "in two steps"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in two steps":
        monkeypatch.setattr(bundle_writer, "_exchange", lambda one, other: False)
    return str(request.param)


def test_the_target_is_always_there(swap: str, bundle: Path) -> None:
    missing, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                bundle.stat()
            except FileNotFoundError:
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(100):
        write_over(bundle)
    done.set()
    watcher.join()
    assert swap == "in two steps" or not missing
    assert [path.name for path in bundle.parent.iterdir()] == ["x.vmoe"]


def test_a_failure_between_the_two_steps_brings_the_old_bundle_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = everything(bundle), Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(bundle_writer, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(KeyboardInterrupt):
        write_over(bundle)
    assert everything(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["x.vmoe"]


@pytest.mark.parametrize("name", ["thesis.txt", "thesis.onnx"])
def test_a_file_that_comes_into_the_old_bundle_during_the_export_is_kept(name: str, bundle: Path) -> None:
    with pytest.raises(ExportError, match=f"x.vmoe contains '{name}'"), new_bundle(bundle, force=True):
        (bundle / name).write_text("years of work")
    assert (bundle / name).read_text() == "years of work"
    assert [path.name for path in bundle.parent.iterdir()] == ["x.vmoe"]


def test_a_folder_that_appears_during_the_export_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="exists"), new_bundle(tmp_path / "x.vmoe", force=False):
        (tmp_path / "x.vmoe").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["x.vmoe"]


def test_of_two_exports_at_once_the_second_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "x.vmoe"
    with new_bundle(target, force=False) as folder:
        with pytest.raises(ExportError, match="another export is writing"):
            write_over(target)
        (folder / "manifest.json").write_text("{}")
        write_over(tmp_path / "y.vmoe")
    assert [path.name for path in target.iterdir()] == ["manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.vmoe", "y.vmoe"]


# After a killed export.


@pytest.mark.parametrize("content", ["new/weights.safetensors", "old/model.onnx", "thesis.txt"])
def test_the_next_export_to_the_same_target_removes_what_a_killed_one_left(content: str, bundle: Path) -> None:
    for name in ("x.vmoe", "y.vmoe"):
        path = bundle.parent / f".{name}.vmoe-export" / content
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
    write_over(bundle)
    assert sorted(path.name for path in bundle.parent.iterdir()) == [".y.vmoe.vmoe-export", "x.vmoe"]


def test_an_old_bundle_whose_replacement_was_killed_comes_back(bundle: Path) -> None:
    before, work = everything(bundle), bundle.parent / ".x.vmoe.vmoe-export"
    work.mkdir()
    bundle.rename(work / "old")
    with pytest.raises(KeyError), new_bundle(bundle, force=True):
        raise KeyError
    assert everything(bundle) == before


# The model card.


@pytest.mark.sample(1)
@pytest.mark.parametrize("output", ["logits", "features"])
def test_the_hub_reads_the_model_card(output: str, tmp_path: Path, mnist_checkpoint: Path, mnist_data: Path) -> None:
    from huggingface_hub import ModelCard

    made, images = tmp_path / "x.vmoe", tmp_path / "digits.npz"
    with np.load(mnist_data) as data:
        np.savez(images, images=data["images"][:64], labels=data["labels"][:64])
    fields = {"capacity": [0.3], "k": [1], "output": output, "group": "16", "precision": "bf16"}
    export_bundle(mnist_checkpoint, made, images=images, **fields)
    card = ModelCard.load(made / "README.md")
    task = {"logits": "image-classification", "features": "image-feature-extraction"}[output]
    assert card.data.to_dict() | {"tags": None} == {
        "license": "unknown", "library_name": "vmoe-export", "pipeline_tag": task, "tags": None
    }  # fmt: skip
    assert {"mixture-of-experts", "onnx"} <= set(card.data.tags)
    assert "# vmoe_mnist" in card.text and "of 64 images" in card.text if output == "logits" else "c0.3-k1" in card.text
    lines = card.text.split("```python\n")[1].split("\n```")[0].replace('"model.vmoe"', repr(str(made)))
    photo = str(Path(mnist_data).with_name("seven.png"))
    assert len(lines.splitlines()) == 3
    exec(lines.replace('"photo.jpg"', repr(photo)), {})


def test_an_edited_model_card_leaves_the_bundle_valid_and_goes_with_it(bundle: Path) -> None:
    (bundle / "README.md").write_text("my words")
    with Bundle.open(bundle) as opened:
        opened.verify_weights()
    write_over(bundle)
    assert not (bundle / "README.md").exists()
