"""Check that no program looks up a host or writes outside the cache folder.

By default, ONNX Runtime might do both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sdk_build
from wheels import onnxruntime_folder

WITH_TELEMETRY = "1.32.0"
WATCH = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void note(const char *what) {
  FILE *file = fopen(getenv("LOOKUPS"), "a");
  if (file) { fprintf(file, "%s\\n", what); fclose(file); }
}
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  note(host ? host : "nobody");
  return EAI_FAIL;
}
int connect(int descriptor, const struct sockaddr *address, socklen_t size) {
  if (address->sa_family != AF_UNIX) note("connect");
  return -1;
}
"""
LOAD = """
import os, sys, time
from pathlib import Path
import numpy as np
from vmoe_runtime import Engine
with Engine.load(sys.argv[1], backend=sys.argv[2], threads=1) as engine:
    engine(-np.ones((1, 28, 28, 1), np.float32))
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end and not os.path.exists(os.environ["LOOKUPS"]) and not any(Path.home().iterdir()):
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a library that records each host lookup of a process, and makes the lookup fail."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the watch with")
    library = tmp_path_factory.mktemp("watch") / "watch.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=WATCH, text=True, check=True)
    return library


def traces(watch: Path, home: Path, *command: str | Path, **environment: str) -> tuple[list[str], list[str]]:
    """Run a command. Return the hosts that the command looked up, and the files that it wrote to its home folder."""
    home.mkdir()
    lookups = home.parent / f"{home.name}.lookups"
    # Don't pass on variables that show that this is a continuous integration run, because ONNX Runtime never sends anything
    # in such runs.
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    subprocess.run(
        command,
        env={**kept, "HOME": str(home), "LOOKUPS": str(lookups), "LD_PRELOAD": str(watch), **environment},
        check=True,
        stdin=subprocess.DEVNULL,
        cwd=home,
    )
    return (
        lookups.read_text().split() if lookups.exists() else [],
        sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()),
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_leaves_no_trace(backend: str, watch: Path, mnist_image_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOAD, mnist_image_bundle, backend, "1"]
    assert traces(watch, tmp_path / "home", *command) == ([], [])


def test_a_users_own_value_stays(watch: Path, mnist_image_bundle: Path, tmp_path: Path) -> None:
    packages = onnxruntime_folder(WITH_TELEMETRY)
    command = [sys.executable, "-c", LOAD, mnist_image_bundle, "onnxruntime"]
    environment = {"PYTHONPATH": str(packages)}
    assert traces(watch, tmp_path / "home", *command, "3", **environment) == ([], [])
    lookups, files = traces(watch, tmp_path / "other", *command, "120", ORT_DISABLE_TELEMETRY="0", **environment)
    assert lookups or files  # proves that this test and the previous one can detect telemetry


@pytest.mark.parametrize("start", ["import vmoe_runtime", "from vmoe_export import export_bundle"])
def test_every_package_turns_it_off_before_onnxruntime_is_imported(start: str) -> None:
    script = (
        "import os, sys\n"
        "class Look:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'onnxruntime': assert os.environ.get('ORT_DISABLE_TELEMETRY') == '1'\n"
        "sys.meta_path.insert(0, Look())\n"
        f"{start}\nimport onnxruntime\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_sdk_leaves_no_trace(watch: Path, mnist_image_bundle: Path, tmp_path: Path) -> None:
    (library,) = (onnxruntime_folder(WITH_TELEMETRY) / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    program = sdk_build.program(sdk_build.prefixes().standard_ops, "sdk_runner")
    assert traces(watch, tmp_path / "home", program, mnist_image_bundle, library, "1") == ([], [])
