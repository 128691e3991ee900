"""Check that a release has exactly the files in its list, and that they work on a plain Debian.

This Debian contains nothing else from this project. `make release` builds the files and runs these tests.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from bare_root import BareRoot
from debian_root import install_debian, run_inside
from image_build import Container, build_image
from sdk_build import ROOT, built, onnxruntime_library

RELEASE = os.environ.get("VMOE_RELEASE", "")
"""The folder that they are in."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not RELEASE, reason="make release builds a release and runs these tests"),
    pytest.mark.slow,
]

VERSION = version("vmoe-export")
NAMES = {
    *(f"vmoe_export-{VERSION}{rest}" for rest in (".tar.gz", "-py3-none-any.whl")),
    *(f"vmoe_export-{VERSION}-py3-none-manylinux_2_28_{arch}.whl" for arch in ("x86_64", "aarch64")),
    f"vmoe_export-{VERSION}-py3-none-macosx_13_0_arm64.whl",
    *(f"vmoe-sdk-{VERSION}-linux-{arch}.tar.gz" for arch in ("x86_64", "aarch64")),
    *(f"libvmoe-dev_{VERSION}_{arch}.deb" for arch in ("amd64", "arm64")),
    *(f"vmoe-export-{VERSION}{rest}" for rest in ("-docs.tar.gz", ".cdx.json")),
    "SHA256SUMS",
}
# This program imitates macOS and Windows as far as possible on Linux: it removes what those systems don't have.
STANDARD_OPS = """
import os, sys, warnings
import numpy, onnxruntime, PIL.Image
for name in ("fork", "register_at_fork", "sched_getaffinity", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"):
    delattr(os, name)
sys.modules["fcntl"] = None
sys.platform = "win32"
from vmoe_runtime import Engine
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with Engine.load("/bundle", threads=1) as engine:
        print(engine.backend_description, *(warning.message for warning in caught), sep="; ")
        print(engine.classify("/seven.png", top=1))
"""
SAMPLE = """
cmake -S /sample -B /build {options}
cmake --build /build
VMOE_ONNXRUNTIME=/libonnxruntime.so /build/classify /bundle /seven.png
rm -r /build
"""


def release_file(pattern: str) -> Path:
    (path,) = Path(RELEASE).glob(pattern)
    return path


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, mnist_image_bundle: Path) -> Iterator[Path]:
    """Install a Debian with ONNX Runtime, a bundle, and the C++ sample with its requirements, but without the SDK."""
    root = install_debian(tmp_path_factory.mktemp("root") / "debian", "g++", "cmake", "make", "libstb-dev")
    shutil.copytree(ROOT / "samples" / "cpp_minimal", root / "sample")
    shutil.copy(ROOT / "samples" / "mnist" / "seven.png", root)
    shutil.copy(onnxruntime_library(), root / "libonnxruntime.so")
    shutil.copytree(mnist_image_bundle, root / "bundle")
    yield root
    shutil.rmtree(root)


def test_the_checksums_are_those_of_every_file() -> None:
    assert {path.name for path in Path(RELEASE).iterdir()} == NAMES
    said = built("sh", "-c", 'cd "$1" && sha256sum -c SHA256SUMS', "sh", RELEASE)
    assert said.splitlines() == [f"{name}: OK" for name in sorted(NAMES - {"SHA256SUMS"})]


@pytest.mark.parametrize(("arch", "debian_arch"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_the_sdk_has_the_libraries_of_the_wheel(arch: str, debian_arch: str, tmp_path: Path) -> None:
    """Check the SDK's files without running them, because wheel tests already run the code on both architectures.

    The libraries must not contain the path of the source folder.
    """
    package = release_file(f"*_{debian_arch}.deb")
    assert f"Architecture: {debian_arch}" in built("dpkg-deb", "--info", package)
    built("dpkg-deb", "--extract", package, tmp_path)
    assert "nlohmann" in (tmp_path / "usr/share/doc/libvmoe-dev/copyright").read_text()
    with zipfile.ZipFile(release_file(f"*_{arch}.whl")) as wheel, tarfile.open(release_file(f"*-{arch}.tar.gz")) as archive:
        for name in ("libvmoe_engine.so", "libvmoe_onnxruntime.so"):
            library = wheel.read(f"vmoe_runtime/lib/{name}")
            unpacked = archive.extractfile(f"vmoe-sdk-{VERSION}-linux-{arch}/lib/{name}") or io.BytesIO()
            assert unpacked.read() == library == (tmp_path / "usr/lib" / name).read_bytes()
            assert str(ROOT).encode() not in library


def test_the_bill_of_materials_names_what_runs_and_what_is_compiled_in() -> None:
    bill = json.loads(release_file("*.cdx.json").read_text())
    root = bill["metadata"]["component"]
    assert (bill["bomFormat"], root["name"], root["version"]) == ("CycloneDX", "vmoe-export", VERSION)
    assert {"numpy", "onnxruntime", "click"} <= {part["name"] for part in bill["components"]}
    assert {part["name"] for part in root["components"]} == {"highway", "nlohmann-json3", "onnxruntime", "libc++ of zig"}
    assert all(part["licenses"] for part in root["components"])
    assert str(ROOT) not in json.dumps(bill)


def test_the_pure_wheel_answers_on_standard_ops_and_says_so(tmp_path: Path, mnist_image_bundle: Path) -> None:
    root = BareRoot(tmp_path / "root", release_file("*-none-any.whl"))
    shutil.copytree(mnist_image_bundle, root.root / "bundle")
    shutil.copy(ROOT / "samples" / "mnist" / "seven.png", root.root)
    said = root.run(STANDARD_OPS)
    assert "standard ops; this installation of vmoe-export has no op library: libvmoe_onnxruntime.so can't be" in said
    assert "[[(7, " in said


def test_the_tar_builds_the_sample(debian: Path) -> None:
    with tarfile.open(release_file("*-x86_64.tar.gz")) as archive:
        archive.extractall(debian / "opt", filter="data")
    prefix = f"/opt/vmoe-sdk-{VERSION}-linux-x86_64"
    assert run_inside(debian, SAMPLE.format(options=f"-DCMAKE_PREFIX_PATH={prefix}")).splitlines()[-1].startswith("class 7 ")
    shutil.rmtree(debian / prefix[1:])


def test_the_debian_package_builds_the_sample(debian: Path) -> None:
    shutil.copy(release_file("*_amd64.deb"), debian / "sdk.deb")
    said = run_inside(debian, f"dpkg -i /sdk.deb\n{SAMPLE.format(options='')}dpkg -r libvmoe-dev")
    assert re.search(r"^class 7 ", said, re.MULTILINE)


def test_the_image_of_the_dockerfile_answers_a_request(tmp_path: Path, mnist_image_bundle: Path) -> None:
    container = Container(build_image(tmp_path), mnist_image_bundle)
    try:
        picture = (ROOT / "samples" / "mnist" / "seven.png").read_bytes()
        status, body, _ = container.ask("POST", "/v1/classify?top=1", picture)
        assert status == 200 and json.loads(body)["predictions"][0][0]["class"] == "7"
        assert container.inside("id", "-u").strip() == "65534"
        assert "University of Cincinnati" in container.inside("cat", "/vmoe/licences/libcli11-dev/copyright")
        assert list(container.config["ExposedPorts"]) == ["8000/tcp"]
        _, *check = container.config["Healthcheck"]["Test"]
        container.inside(*(word.replace("8000", str(container.port)) for word in check))
    finally:
        container.remove()
