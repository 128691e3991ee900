"""Tests for checkpoints, bundles and images at URLs.

The commands must give the same results as with local files, or one error and no result.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pytest
from command_runs import QUICK, Vmoe, npz
from cutting_proxy import cutting_proxy
from damaged_files import copied_checkpoint, folder_bytes
from family_files import Layout, families
from terminal import started
from web_server import web_server

from vmoe_export import export_bundle
from vmoe_export.remote_checkpoint import checkpoint_at
from vmoe_remote import remote_files
from vmoe_remote.remote_files import RemoteError, RemoteFiles
from vmoe_runtime import BundleError, Engine, VmoeError
from vmoe_runtime.addresses import without_secrets
from vmoe_tools import remote_sources
from vmoe_tools.program import main

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto", reason="moto, an S3 server, is not installed")
from ray_cluster import ray_cluster, s3_server

ROOT = Path(__file__).parents[2]
MNIST = ROOT / "samples" / "mnist"
BUCKET = "vmoe-remote"
EXPORT = ("--capacity", "0.3", "--k", "1", "--no-validate", "-q")


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the folder for temporary copies, and check that the test leaves nothing in it.

    The fixture also shortens the pauses between attempts.
    """
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(remote_files, "_PAUSE", 0.001)
    # torch makes its cache folder when it is imported. Put it outside `folder`, which has to stay empty.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))
    # a cached instance would still be connected to an earlier server
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield folder
    fsspec.get_filesystem_class("simplecache").clear_instance_cache()
    if any(folder.iterdir()):
        gc.collect()  # also deletes the folders of discarded simplecaches
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Start an S3 server, and yield the URL of a bucket. Anyone can read the bucket's public files."""
    with s3_server(BUCKET):
        yield f"{os.environ['AWS_ENDPOINT_URL']}/{BUCKET}"


@pytest.fixture(scope="module")
def cluster(s3: str) -> Iterator[dict[str, str]]:
    """Start a Ray cluster for batch jobs."""
    with ray_cluster() as variables:
        yield variables | {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def put(address: str, folder: Path) -> str:
    """Copy the files of a folder to a URL, make them publicly readable, and return the URL."""
    system, root = fsspec.url_to_fs(address)
    public = {"ACL": "public-read"} if address.startswith("s3:") else {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            system.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes(), **public)
    return address


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    return copied_checkpoint(tmp_path / "checkpoint", MNIST / "vmoe_mnist", "vmoe_mnist").parent


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a bundle from local files. Tests compare other bundles with it."""
    bundle = tmp_path_factory.mktemp("local") / "local.vmoe"
    export_bundle(MNIST / "vmoe_mnist", bundle, capacity=[0.3], k=[1], validate=False)
    return bundle


def assert_same_bundle(bundle: Path, local: Path, source: str) -> None:
    """Assert that two bundles have the same bytes, except in the lines that contain the source."""
    found, expected = folder_bytes(bundle), folder_bytes(local)
    assert json.loads(found["manifest.json"])["source"]["name"] == source
    for name in ("manifest.json", "README.md"):
        found[name] = found[name].replace(source.encode(), b"vmoe_mnist")
    assert found == expected


def test_a_checkpoint_in_memory_gives_the_same_bundle(
    memory: fsspec.AbstractFileSystem, checkpoint: Path, local: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    put("memory://zoo", checkpoint)
    put("memory://zoo/others", checkpoint)
    for address, source in (
        ("memory://zoo/vmoe_mnist", "memory://zoo/vmoe_mnist"),
        ("memory://zoo/vmoe_mnist.index", "memory://zoo/vmoe_mnist"),
        ("memory://zoo/others", "memory://zoo/others/vmoe_mnist"),
    ):
        vmoe.run("export", address, *EXPORT, "--force", "-o", tmp_path / "x.vmoe")
        assert_same_bundle(tmp_path / "x.vmoe", local, source)
    export_bundle("memory://zoo/vmoe_mnist", tmp_path / "y.vmoe", capacity=[0.3], k=[1], validate=False)
    assert_same_bundle(tmp_path / "y.vmoe", local, "memory://zoo/vmoe_mnist")


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    memory: fsspec.AbstractFileSystem, local: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    put("memory://b.vmoe", local)
    monkeypatch.setattr(remote_sources, "LINE_SECONDS", 0)
    assert "memory://b.vmoe: copied 3 of 3 MB\n" in vmoe.run("run", "memory://b.vmoe", MNIST / "seven.png")[1]
    assert vmoe.run("run", "memory://b.vmoe", MNIST / "seven.png", "-q") == ("", "")


def test_only_what_an_export_needs_is_read(memory: fsspec.AbstractFileSystem, checkpoint: Path) -> None:
    put("memory://zoo", checkpoint)
    memory.pipe_file("/zoo/vmoe_mnist.data-00002-of-00003", b"of another export")
    needed = sum(path.stat().st_size for path in checkpoint.iterdir())
    told: list[tuple[int, int]] = []
    with checkpoint_at("memory://zoo/vmoe_mnist", lambda done, total: told.append((done, total))) as opened:
        assert sorted(path.name for path in opened.files) == sorted(path.name for path in checkpoint.iterdir())
    assert told[-1] == (needed, needed)


@pytest.mark.sample(1)
@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_thirty_cut_connections_change_nothing(
    scheme: str, s3: str, checkpoint: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    put(f"s3://{BUCKET}/zoo", checkpoint)
    monkeypatch.setattr(remote_files, "TRIES", 30)
    with cutting_proxy(urlsplit(s3).port or 0, cuts=30) as proxy:
        server = f"http://127.0.0.1:{proxy.port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        address = f"s3://{BUCKET}/zoo/vmoe_mnist" if scheme == "s3" else f"{server}/{BUCKET}/zoo/vmoe_mnist"
        for number in range(100):
            vmoe.run("export", address, *EXPORT, "-o", tmp_path / f"{number}.vmoe")
            assert_same_bundle(tmp_path / f"{number}.vmoe", local, address)
            if not proxy.cuts:
                break
        assert proxy.cuts == 0


def test_a_transfer_that_keeps_breaking_is_refused_and_leaves_nothing(
    s3: str, checkpoint: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    put(f"s3://{BUCKET}/zoo", checkpoint)
    for seed in range(10):
        with cutting_proxy(urlsplit(s3).port or 0, cuts=1000, lengths=range(60_000), seed=seed) as proxy:
            address = f"http://127.0.0.1:{proxy.port}/{BUCKET}/zoo/vmoe_mnist"
            told = vmoe.complaint(1, "export", address, *EXPORT, "-o", tmp_path / "x.vmoe")
        assert told.startswith(f"vmoe: {address}") and "can't be read" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "copies"]


@pytest.mark.sample(2)
@pytest.mark.parametrize("scheme", ["s3", "http"])
@pytest.mark.parametrize("bytes_sent", [-1, 0, 200_000])
def test_a_server_that_is_or_falls_silent_ends_the_command_after_five_tries(
    bytes_sent: int, scheme: str, local: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    monkeypatch.setattr(remote_files, "_SILENCE", 0.2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    sent: list[str] = []
    with web_server(tmp_path, silent_after=bytes_sent, sent=sent) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        address = f"{'s3:/' if scheme == 's3' else server}/{checkpoint.name}/vmoe_mnist"
        for words in (("export", address, *EXPORT), ("run", local, f"{address}.data-00000-of-00002")):
            if (words[0], scheme) == ("run", "s3"):  # with S3, `run` fails earlier, with another message
                break
            sent.clear()
            told = vmoe.complaint(1, *words)
            assert told.startswith(f"vmoe: {address}") and told.endswith(": the server sent nothing for 0.2 s\n")
            # At most seven requests are sent. Two detect that the web server does not support range requests, and five time
            # out.
            assert len([path for path in sent if path == sent[-1]]) <= 7


@pytest.mark.sample(1)
@pytest.mark.parametrize("scheme", ["memory", "s3", "http"])
def test_bundles_and_pictures_give_the_same_answers(
    scheme: str, s3: str, memory: fsspec.AbstractFileSystem, local: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    (tmp_path / "disk" / "photos" / "a class" / "deep").mkdir(parents=True)
    for name in ("photos/seven.png", "photos/a class/7.png", "photos/a class/deep/[7].png", "photos/a class/notes.txt"):
        shutil.copy(MNIST / "seven.png", tmp_path / "disk" / name)
    shutil.copytree(local, tmp_path / "disk" / "b.vmoe")
    shutil.copy(MNIST / "test_data.npz", tmp_path / "disk")
    with web_server(tmp_path / "disk") as server:
        root = server if scheme == "http" else put(f"{scheme}://{BUCKET}/all", tmp_path / "disk")
        for words in (
            ("run", "b.vmoe", "photos", "photos/seven.png"),
            ("inspect", "b.vmoe", "--images", "test_data.npz"),
            ("inspect", "b.vmoe", "photos/seven.png"),
            ("inspect", "b.vmoe", "--verify"),
        ):
            there, here = (
                [word if word.startswith("-") else f"{place}/{word}" for word in words[1:]]
                for place in (root, tmp_path / "disk")
            )
            expected = json.dumps(vmoe.json(words[0], *here)).replace(str(tmp_path / "disk"), root)
            assert vmoe.json(words[0], *there) == json.loads(expected)


def test_a_web_server_without_ranges_sends_files_as_a_whole(
    checkpoint: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    monkeypatch.setattr(remote_files, "_BLOCK", 100_000)
    monkeypatch.setattr(remote_files, "_SMALL_FILE", 1000)
    with web_server(checkpoint) as server:
        vmoe.run("export", f"{server}/vmoe_mnist", *EXPORT, "-o", tmp_path / "x.vmoe")
        assert_same_bundle(tmp_path / "x.vmoe", local, f"{server}/vmoe_mnist")
        # Each cut comes after about half of a file has been sent. Without range requests, the whole file must then be sent
        # again, and a command tolerates at most four cuts.
        with cutting_proxy(urlsplit(server).port or 0, cuts=4, lengths=range(1_000_000, 1_500_000)) as proxy:
            address = f"http://127.0.0.1:{proxy.port}/vmoe_mnist"
            vmoe.run("export", address, *EXPORT, "-o", tmp_path / "y.vmoe")
            assert_same_bundle(tmp_path / "y.vmoe", local, address)


def test_a_file_that_is_replaced_during_its_copy_is_refused(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "_BLOCK", 1000)
    monkeypatch.setattr(remote_files, "_SMALL_FILE", 10)
    memory.pipe_file("/zoo/x.safetensors", bytes(5000))

    def replace(done: int, total: int) -> None:
        memory.pipe_file("/zoo/x.safetensors", bytes(6000))

    with RemoteFiles("memory://zoo/x.safetensors", replace) as files, pytest.raises(RemoteError, match="was changed while"):
        files.copy([""])


@pytest.mark.parametrize("name", ["/photos/../x.png", "/photos/a/../../x.png", "/photos//x.png", "/photos/a\0.png"])
def test_names_that_lead_elsewhere_are_refused(
    name: str, memory: fsspec.AbstractFileSystem, local: Path, vmoe: Vmoe
) -> None:
    memory.pipe_file("/photos/seven.png", (MNIST / "seven.png").read_bytes())
    memory.store[name] = memory.store["/photos/seven.png"]
    assert "no name for a file here" in vmoe.complaint(1, "run", local, "memory://photos")


def test_a_bundle_that_was_changed_is_refused_by_its_address(
    memory: fsspec.AbstractFileSystem, local: Path, vmoe: Vmoe
) -> None:
    put("memory://b.vmoe", local)
    memory.pipe_file("/b.vmoe/model.onnx", bytes(memory.size("/b.vmoe/model.onnx")))
    told = vmoe.complaint(1, "run", "memory://b.vmoe", MNIST / "seven.png")
    assert told == "vmoe: memory://b.vmoe: model.onnx was changed after export (its SHA-256 differs)\n"
    memory.pipe_file("/b.vmoe/manifest.json", b'{"format": "vmoe-bundle", "format_version": 1}')
    assert "memory://b.vmoe" in vmoe.complaint(1, "run", "memory://b.vmoe", MNIST / "seven.png")


@pytest.mark.parametrize("cache", ["", "simplecache::"])
def test_user_password_and_query_are_told_to_nobody(cache: str, checkpoint: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    with web_server(checkpoint) as plain:
        server = cache + plain
        there = server.replace("://", "://me:pass@")
        out, err = vmoe.run("export", f"{there}/vmoe_mnist?sig=key#x", *EXPORT[:-1], "-o", tmp_path / "x.vmoe")
        told = vmoe.complaint(1, "export", f"{there}/gone.safetensors?sig=key", *EXPORT)
        told += vmoe.complaint(1, "export", f"{there}/gone?sig=key", *EXPORT)
    written = b"".join(folder_bytes(tmp_path / "x.vmoe").values()).decode(errors="replace")
    assert json.loads((tmp_path / "x.vmoe" / "manifest.json").read_text())["source"]["name"] == f"{server}/vmoe_mnist"
    for text in (out, err, told, written):
        assert "pass@" not in text and "sig=" not in text


WITH_SECRETS = (
    "{web}://user:PLANTED@{host}/x.safetensors",
    "{web}://PLANTED@{host}/x.safetensors",
    "{web}://{host}/x.safetensors?sig=PLANTED",
    "{web}://{host}/x.safetensors#PLANTED",
    "{web}://user:PLANTED@{host}/x.safetensors?sig=PLANTED#PLANTED",
    "{web}://user:PLAN/PLANTED@{host}/x.safetensors",
    "{web}://user:PLAN?PLANTED@{host}/x.safetensors",
    "{web}://user:PLANTED)@{host}/a folder/x.safetensors?sig=PLANTED",
    "HTTP://user:PLANTED@{host}/x.npz?sig=PLANTED&b=PLANTED",
    "ftp://user:PLANTED@127.0.0.1:1/x.npz?sig=PLANTED",
    "simplecache::{web}://user:PLANTED@{host}/x.npz?sig=PLANTED",
    "tar://x.npz::{web}://user:PLANTED@{host}/x.tar",
    "zip://x.npz::{web}://user:PLANTED@{host}/x.zip?sig=PLANTED",
    "s3://key:PLANTED@vmoe-remote/x.npz",
    "s3://key:PLAN/PLANTED@vmoe-remote/x.npz",
    "s3://vmoe-remote/x.npz?secret_key=PLANTED",
    "simplecache::s3://key:PLANTED@vmoe-remote/x.npz",
    "gs://user:PLANTED@bucket/x.npz?token=PLANTED",
    "hf://user:PLANTED@owner/x.npz?token=PLANTED",
    "memory://user:PLANTED@zoo/x.npz?token=PLANTED",
    "nothing://user:PLANTED@bucket/x?token=PLANTED",
)


@pytest.mark.sample(1)
@pytest.mark.parametrize("address", WITH_SECRETS)
def test_no_command_shows_what_is_secret_in_an_address(
    address: str,
    s3: str,
    cluster: dict[str, str],
    local: Path,
    checkpoint: Path,
    mnist_images: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vmoe: Vmoe,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_ENDPOINT", s3)
    npz(checkpoint / "x.npz", **{name: array[:32] for name, array in mnist_images.items()})
    with web_server(checkpoint) as server:
        address = address.format(web="http", host=server.partition("://")[2])
        digits = MNIST / "seven.png"
        for words in (
            ("run", address, digits), ("run", local, address, "--json", "-"), ("bench", local, "--images", address, *QUICK),
            ("inspect", address), ("fewshot", local, "--images", address, "-o", "h.npz"),
            ("report", local, "--images", address, "-o", "r.html", *QUICK), ("page", address, "-o", "p.html"),
            ("export", address, *EXPORT), ("export", MNIST / "vmoe_mnist", "--config", address, *EXPORT),
            ("export", MNIST / "vmoe_mnist", "--head", address), ("export", local, "-o", address),
            ("zeroshot", address, "--class-names", address), ("prune", address, "--experts", "2", "-o", "q.safetensors"),
            ("serve", "triton", address, "-o", "t"), ("serve", "batch", local, address, "out"),
            ("serve", "batch", local, MNIST, address), ("serve", "ray", address), ("build", address),
            (address,), ("run", local, digits, f"--{address}"), ("run", local, digits, "--profile", address),
        ):  # fmt: skip
            vmoe.capture.readouterr()
            main([*map(str, words), *(["-v"] if words[0] in ("run", "export", "bench") else [])])
            out, err = vmoe.capture.readouterr()
            assert "PLANTED" not in out + err, words
    for path in tmp_path.rglob("*"):
        assert "PLANTED" not in str(path) and (path.is_dir() or b"PLANTED" not in path.read_bytes())


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("gs://vmoe_checkpoints/vmoe_b16", ("gcsfs",)),
        ("nothing://bucket/x", ("nothing",)),
        ("memory://gone", ("memory://gone", "read")),
        ("s3://vmoe-remote/gone/x.npz", ("s3://vmoe-remote/gone/x.npz", "read")),
    ],
)
def test_what_can_not_be_read_is_explained(address: str, words: tuple[str, ...], s3: str, local: Path, vmoe: Vmoe) -> None:
    for command in (("export", address, "-q"), ("run", local, address), ("run", address, MNIST / "seven.png")):
        told = vmoe.complaint(1, *command)
        assert all(word in told for word in words), told


def test_without_fsspec_the_extra_is_named(local: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    for command in (("export", "s3://bucket/x"), ("run", local, "hf://org/name")):
        assert "pip install 'vmoe-export[remote]'" in vmoe.complaint(1, *command)


def test_nothing_is_written_to_an_address_and_an_engine_takes_none(
    memory: fsspec.AbstractFileSystem, local: Path, mnist_data: Path, vmoe: Vmoe
) -> None:
    put("memory://b.vmoe", local)
    words = ("memory://b.vmoe", "--images", mnist_data, "--max-drop-in-accuracy", "1%", "--add-profile", *QUICK)
    assert "--add-profile" in vmoe.complaint(2, "bench", *words)
    with pytest.raises(BundleError, match="an address must be copied"):
        Engine.load("memory://b.vmoe")


def test_of_several_orbax_steps_the_newest_finished_one_is_copied(memory: fsspec.AbstractFileSystem) -> None:
    for name, size in {
        "100/state/d/x": 10, "100/commit_success.txt": 1, "200/state/d/x": 20, "200/commit_success.txt": 1,
        "300/state/d/x": 40, "400.orbax-checkpoint-tmp/state/d/x": 80,
    }.items():  # fmt: skip
        memory.pipe_file(f"/ckpt/{name}", bytes(size))
    told: list[tuple[int, int]] = []
    with (
        pytest.raises(VmoeError, match="memory://ckpt"),
        checkpoint_at("memory://ckpt", lambda done, total: told.append((done, total))),
    ):
        pass
    assert told[-1] == (21, 21)


def test_a_signal_during_a_transfer_leaves_nothing(copies: Path, local: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.npz"
        process = started([sys.executable, "-m", "vmoe_tools", "run", local, address], TMPDIR=str(copies))
        silent.accept()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "vmoe: interrupted\n")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("layout", "file"),
    [
        *(("sharded", ""), ("sharded", "/model.safetensors.index.json"), ("safetensors", "/model.safetensors")),
        *(("sharded_bin", ""), ("sharded_bin", "/pytorch_model.bin.index.json"), ("pth", "")),
    ],
)
def test_a_model_of_another_library_is_copied_with_its_settings_and_parts(
    layout: Layout, file: str, memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    folder = families()["vit"].write(tmp_path / "vit", layout)
    put("memory://hub/vit", folder)
    for place, name in ((str(folder), "here"), (f"memory://hub/vit{file}", "there")):
        export_bundle(place, tmp_path / name, validate=False)
    here, there = (folder_bytes(tmp_path / name) for name in ("here", "there"))
    assert here["weights.safetensors"] == there["weights.safetensors"] and here["model.onnx"] == there["model.onnx"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("text", ["a" * 10**6, "s3://" + "," * 10**6 + " ", "a:/" * 10**6], ids=lambda text: text[:5])
def test_a_long_text_takes_no_time_by_its_square(text: str) -> None:
    assert len(text) - 2 <= len(without_secrets(text)) <= len(text)
