"""Pack the C++ SDK and the op library from a wheel into a tar archive and a Debian package.

Both files are reproducible.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from build_wheels import ROOT, WORK, run

DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's name of each architecture."""

CONTROL = """\
Package: libvmoe-dev
Version: {version}
Architecture: {arch}
Maintainer: the developers of vmoe-export <vmoe-export@localhost>
Section: libdevel
Priority: optional
Depends: libc6 (>= 2.28)
Suggests: libonnxruntime-dev
Installed-Size: {size}
Description: C++ SDK for bundles of V-MoE models
 libvmoe_engine.so with its headers, CMake package and pkg-config file, and the
 op library libvmoe_onnxruntime.so. Programs load ONNX Runtime {oldest} or newer at
 run time; VMOE_ONNXRUNTIME selects the library.
"""


def write_sdk(wheel: Path, version: str, arch: str, out: Path) -> None:
    """Write `vmoe-sdk-VERSION-linux-ARCH.tar.gz` and `libvmoe-dev_VERSION_ARCH.deb` into the folder `out`."""
    name = f"vmoe-sdk-{version}-linux-{arch}"
    work = WORK / "sdk"
    shutil.rmtree(work, ignore_errors=True)
    unpack(wheel, work / name)
    write_archive(work / name, out / f"{name}.tar.gz")

    root = work / "debian"
    unpack(wheel, root / "usr")
    licences = sorted((root / "usr").glob("LICENSE*"))
    documents = root / "usr" / "share" / "doc" / "libvmoe-dev"
    documents.mkdir(parents=True)
    (documents / "copyright").write_bytes(b"\n".join(path.read_bytes() for path in licences))
    for path in licences:
        path.unlink()
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    (root / "DEBIAN").mkdir()
    (oldest,) = {*re.findall(r"onnxruntime>=([0-9.]+)", (ROOT / "pyproject.toml").read_text())}
    (root / "DEBIAN" / "control").write_text(CONTROL.format(version=version, arch=DEBIAN[arch], size=size, oldest=oldest))
    run(["chmod", "-R", "u=rwX,go=rX", str(root)], "the modes of the Debian package's files can't be set")
    package = out / f"libvmoe-dev_{version}_{DEBIAN[arch]}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build", str(root), str(package)]
    run(command, "dpkg-deb can't build the Debian package")


def unpack(wheel: Path, prefix: Path) -> None:
    """Unpack the SDK from a wheel into an install prefix.

    Libraries, headers and build files stay in their folders. Licences go to the prefix's top folder.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            parts = PurePosixPath(name).parts
            if "licenses" in parts:
                target = prefix / parts[-1]
            elif parts[:2] in (("vmoe_runtime", "lib"), ("vmoe_runtime", "include")) and parts[-1] != "missing.txt":
                target = prefix.joinpath(*parts[1:])
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))


def write_archive(folder: Path, archive: Path) -> None:
    """Pack a folder reproducibly.

    Names are sorted, no owners are stored, and SOURCE_DATE_EPOCH is the time of every file.
    """
    command = 'tar --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner'
    command += ' --mode=u=rwX,go=rX -C "$1" -c "$2" | gzip -9n >"$3"'
    shell = ["bash", "-euo", "pipefail", "-c", command, "bash", str(folder.parent), folder.name, str(archive)]
    run(shell, f"{archive.name} can't be written")
