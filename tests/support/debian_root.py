"""A root folder with a newly installed Debian, whose release is the same as this machine's."""

from __future__ import annotations

import platform
from pathlib import Path

from sdk_build import built

_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")


def install_debian(target: Path, *packages: str) -> Path:
    """Install Debian's essential packages and `packages` into `target`, from this machine's package sources.

    `target` is a folder or a tar archive.
    """
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    options = ["--quiet", "--variant=minbase", *(f"--include={package}" for package in packages)]
    settings = [f"--aptopt={path}" for path in Path("/etc/apt/apt.conf.d").glob("99*")]
    built("mmdebstrap", *options, *settings, suite, target, _SOURCES)
    return target


def run_inside(root: Path, script: str) -> str:
    """Run a shell script in a root folder with a minimal environment, and return its output."""
    lines = 'mount -t proc proc "$1/proc"; exec env -i PATH=/usr/bin:/usr/sbin:/bin HOME=/ chroot "$1" sh -ec "$2"'
    return built("unshare", "--mount", "--pid", "--fork", "sh", "-ec", lines, "sh", root, script)
