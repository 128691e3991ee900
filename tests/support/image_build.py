"""The image of the Dockerfile, built without a daemon from a fresh Debian, and a container of it."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from debian_root import install_debian
from sdk_build import ROOT, built

BASE, IMAGE = "localhost/vmoe-test-debian", "localhost/vmoe-test-serve"
# How pip is set up here; a build by `docker build` has the settings of its own.
SETTINGS = [path for path in (Path("/etc/pip.conf"), Path("/etc/ssl/certs")) if path.exists()]


def build_image(folder: Path) -> str:
    """Builds the image and returns its name."""
    container = built("buildah", "from", "scratch").strip()
    built("buildah", "add", container, install_debian(folder / "debian.tar"), "/")
    built("buildah", "commit", "--rm", container, BASE)
    mounts = [f"--volume={path}:{path}:ro" for path in SETTINGS]
    options = ["--isolation=chroot", "--network=host", f"--build-arg=BASE={BASE}", f"--tag={IMAGE}"]
    built("buildah", "build", *options, *mounts, ROOT)
    return IMAGE


class Container:
    """A running container of an image, as its user and with its entry point."""

    def __init__(self, image: str, bundle: Path, *options: str) -> None:
        self.config = json.loads(built("buildah", "inspect", "--type=image", image))["OCIv1"]["config"]
        self._name = built("buildah", "from", image).strip()
        command = [
            "buildah",
            "run",
            "--isolation=chroot",
            "--network=host",
            f"--volume={bundle}:/bundle:ro",
            self._name,
            "--",
        ]
        self.process = subprocess.Popen(
            [*command, *self.config["Entrypoint"], *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def inside(self, *command: str) -> str:
        """What a command prints in the container, as its user."""
        return built("buildah", "run", "--isolation=chroot", "--network=host", self._name, "--", *command)

    def post(self, address: str, body: bytes) -> dict[str, object]:
        """The answer of the server, once it is there."""
        for _ in range(600):
            try:
                with urllib.request.urlopen(address, body, timeout=60) as answer:
                    return dict(json.load(answer))
            except urllib.error.URLError:
                assert self.process.poll() is None, self.process.communicate()[0]
                time.sleep(0.1)
        raise AssertionError("the server doesn't answer")

    def remove(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        built("buildah", "rm", self._name)
