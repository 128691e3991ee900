"""Builds and runs the HTTP service of plugins/service."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import sdk_build
from http_client import PATIENCE, HttpClient, unexpected
from terminal import started

SOURCE = sdk_build.ROOT / "plugins" / "service"
_HEADERS = {
    "boost/beast.hpp": "libboost-dev",
    "CLI/CLI.hpp": "libcli11-dev",
    "openssl/ssl.h": "libssl-dev",
    "stb/stb_image.h": "libstb-dev",
    "zlib.h": "zlib1g-dev",
}


def program(sanitizers: str = "") -> Path:
    """Build the HTTP service against the SDK, and return the path of its program.

    If this machine lacks a required header, skip the test.
    """
    for header, package in _HEADERS.items():
        if not any(Path(folder, header).is_file() for folder in ("/usr/include", "/usr/local/include")):
            pytest.skip(f"{header} is not installed (Debian package {package})")
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    if sanitizers:
        # If a sanitizer is on, the compiler gives false warnings, so no warning flags are set.
        flags = f"-g1 -O0 -fsanitize={sanitizers}"
        options = [f"-DCMAKE_CXX_FLAGS={flags}", f"-DCMAKE_EXE_LINKER_FLAGS=-fsanitize={sanitizers}"]
    elif not os.environ.get("VMOE_TEST_SANITIZED"):
        # Compile all sources as one file without optimization, because this takes only a quarter of the time. Without the
        # last flag, the compiler would warn about coroutines in an included file, because their variables have types from
        # unnamed namespaces.
        flags = "-O0 -Wall -Wextra -Werror -Wno-subobject-linkage"
        options = ["-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0", f"-DCMAKE_CXX_FLAGS={flags}"]
    return sdk_build.sample(SOURCE, sdk_build.prefixes().whole, *options) / "vmoe-serve-http"


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "VMOE_ONNXRUNTIME": str(sdk_build.onnxruntime_library()), **variables}


class CppServer(HttpClient):
    """The service, which runs in its own process and chooses its port itself."""

    def __init__(self, built: Path, bundle: Path, *options: str, **variables: str) -> None:
        self.process = started([built, bundle, "--port", "0", *options], **environment(**variables))
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert "://127.0.0.1:" in self.said, self.process.communicate()
        super().__init__(int(self.said.rpartition(":")[2].partition("/")[0]))

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send the service a signal. Return its exit code and any unexpected lines on its standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, unexpected(errors)
