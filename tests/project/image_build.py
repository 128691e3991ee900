"""Builds the Dockerfile's image from a fresh Debian, without a Docker daemon, and runs a container from it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from debian_root import install_debian
from http_client import HttpClient
from sdk_build import ROOT, built

BASE, IMAGE = "localhost/vmoe-test-debian", "localhost/vmoe-test-serve"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_OPTIONS = ["--isolation=chroot", "--network=host"]
_LIMITS = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]  # buildah's defaults exceed some machines' limits


def build_image(folder: Path) -> str:
    """Build the image and return its name. During the build, pip trusts this machine's certificates."""
    container = built("buildah", "from", "scratch").strip()
    built("buildah", "add", container, install_debian(folder / "debian.tar"), "/")
    built("buildah", "commit", "--rm", container, BASE)
    settings = folder / "pip.conf"
    settings.write_text("[global]\ncert = /certificates\n")
    mounts = [f"--volume={settings}:/etc/pip.conf:ro", f"--volume={CERTIFICATES}:/certificates:ro"]
    options = [*_OPTIONS, *_LIMITS, f"--build-arg=BASE={BASE}", f"--tag={IMAGE}", "--format=docker"]
    built("buildah", "build", *options, *mounts, ROOT)
    return IMAGE


class Container(HttpClient):
    """A running container, with the image's user and entry point. It listens on a port that it chooses itself."""

    def __init__(self, image: str, bundle: Path) -> None:
        self.config = json.loads(built("buildah", "inspect", "--type=image", image))["Docker"]["config"]
        self._name = built("buildah", "from", *_LIMITS, image).strip()
        run = ["buildah", "run", *_OPTIONS, f"--volume={bundle}:/bundle:ro", self._name, "--"]
        command = [*run, *self.config["Entrypoint"], "--port", "0", "--threads", "1"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert "://0.0.0.0:" in said, said
        super().__init__(int(said.rpartition(":")[2].partition("/")[0]))

    def inside(self, *command: str) -> str:
        """Run a command in the container as the container's user, and return its output."""
        return built("buildah", "run", *_OPTIONS, self._name, "--", *command)

    def remove(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        built("buildah", "rm", self._name)
        built("buildah", "rmi", IMAGE, BASE)
