"""The installed C++ SDK, and programs that are built against it. Each program has its own project."""

from __future__ import annotations

import fcntl
import filecmp
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime
import pytest

from vmoe_runtime.installation import SDK_LIBRARY, NotInstalledError, native_path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sdk"
SAMPLES = ROOT / "samples"
SOURCES = Path(__file__).parents[1] / "cpp"
OP_LIBRARY = "libvmoe_onnxruntime.so"
PROGRAMS = (
    *("cancel_threads", "engine_threads", "sdk_batcher", "sdk_batcher_memory", "sdk_c_only"),
    *("sdk_fork", "sdk_log", "sdk_prepare", "sdk_runner"),
)

PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(uses_vmoe LANGUAGES C CXX)
add_compile_options(-Wall -Wextra -Werror)
find_package(vmoe CONFIG REQUIRED)
find_package(Threads REQUIRED)
foreach(program {programs})
  file(GLOB source {sources}/${{program}}.c*)
  add_executable(${{program}} ${{source}})
  target_link_libraries(${{program}} PRIVATE vmoe::engine Threads::Threads)
endforeach()
file(WRITE ${{CMAKE_BINARY_DIR}}/op_library.txt "${{VMOE_OP_LIBRARY}}")
"""

_scratch = tempfile.TemporaryDirectory(prefix="vmoe-sdk-")


@dataclass(frozen=True)
class Prefixes:
    """Two install prefixes. `whole` contains everything that was built.

    `standard_ops` contains the SDK without the op library.
    """

    whole: Path
    standard_ops: Path

    @property
    def all(self) -> dict[str, Path]:
        """The prefixes, by the text with which an engine describes its ops.

        `whole` is included only if the op library was built.
        """
        prefixes = {"standard ops": self.standard_ops}
        if (self.whole / "lib" / OP_LIBRARY).is_file():
            prefixes["vmoe op library"] = self.whole
        return prefixes


def run(
    *command: str | Path, text: str | None = None, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and capture its output. `environment` is added to the environment variables."""
    variables = {**os.environ, **environment}
    return subprocess.run(command, input=text, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def built(*command: str | Path, **options: Any) -> str:
    """Run a command that must succeed, and return its standard output. If it fails, fail the test and show all output."""
    done = run(*command, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def scratch_folder() -> Path:
    """Make a folder outside the repository, and return its path. The folder is removed when the tests end."""
    return Path(tempfile.mkdtemp(dir=_scratch.name))


def generator() -> list[str]:
    return ["-G", "Ninja"] if shutil.which("ninja") else []


@functools.cache
def prefixes() -> Prefixes:
    """Return the prefix with the installed libraries, and a copy of this prefix without the op library.

    If the SDK was not built or there is no cmake, skip the test.
    """
    try:
        native_path("SDK", SDK_LIBRARY, "lib", SDK_LIBRARY)
    except NotInstalledError as error:
        pytest.skip(str(error))
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake to build programs with")
    whole = native_path("CMake package", SDK_LIBRARY, "lib", "cmake").parents[1]
    with locked(_folder("standard_ops")) as standard_ops:
        others = shutil.ignore_patterns("libvmoe_onnxruntime*")
        for part in ("include", "lib"):
            shutil.copytree(
                whole / part, standard_ops / part, ignore=others, copy_function=_copy_if_changed, dirs_exist_ok=True
            )
    return Prefixes(whole, standard_ops)


def _copy_if_changed(source: str, target: str) -> None:
    """Copy `source` to `target` unless the two files are equal.

    An existing `target` is removed first. If it were overwritten, other tests' programs that have mapped the library
    would break.
    """
    if Path(target).is_file() and filecmp.cmp(source, target, shallow=False):
        return
    Path(target).unlink(missing_ok=True)
    shutil.copy2(source, target)


@functools.cache
def programs(prefix: Path, *names: str) -> Path:
    """Build programs of tests/cpp in one CMake project against an install prefix. Return the programs' folder."""
    with locked(_folder("programs", str(prefix), *names)) as folder:
        (folder / "CMakeLists.txt").write_text(PROJECT.format(sources=SOURCES, programs=" ".join(names)))
        return _binaries(folder, folder / "build", f"-DCMAKE_PREFIX_PATH={prefix}")


def program(prefix: Path, name: str) -> Path:
    """Return the path of one program of tests/cpp. All programs of an install prefix are built together."""
    return programs(prefix, *PROGRAMS) / name


@functools.cache
def sample(source: Path, prefix: Path, *options: str) -> Path:
    """Build the programs of a code sample against an install prefix. Return the folder with the programs."""
    with locked(_folder(source.name, str(prefix), *options)) as folder:
        return _binaries(source, folder, f"-DCMAKE_PREFIX_PATH={prefix}", *options)


def minimal_sample(prefix: Path) -> Path:
    """Build samples/cpp_minimal against an install prefix, and return the program's path."""
    return sample(SAMPLES / "cpp_minimal", prefix) / "classify"


def service_sample() -> Path:
    """Build samples/cpp_service against the SDK and the Python package's ONNX Runtime.

    Return the program's path. The sample needs the op library. If it was not built, skip the test.
    """
    prefix = prefixes().whole
    if not (prefix / "lib" / OP_LIBRARY).is_file():
        pytest.skip("the sample needs the op library, which was not built here")
    library = BUILD / "libonnxruntime.so.1"
    with locked(BUILD):
        if not library.exists() or not library.samefile(onnxruntime_library()):
            library.unlink(missing_ok=True)
            library.symlink_to(onnxruntime_library())
    return sample(SAMPLES / "cpp_service", prefix, f"-DONNXRUNTIME_LIBRARY={library}") / "service"


def _binaries(source: Path, folder: Path, *options: str) -> Path:
    built("cmake", "-S", source, "-B", folder, *generator(), *options)
    built("cmake", "--build", folder, "--parallel", "2")
    return folder


def _folder(name: str, *options: str) -> Path:
    """Return the folder for the build that has the given name and options."""
    key = hashlib.sha256("\0".join(options).encode()).hexdigest()[:12]
    return BUILD / (f"{name}-{key}" if options else name)


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Make the folder if it doesn't exist, and lock it during the block.

    The lock lets only one process at a time work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def onnxruntime_library(package: Path = Path(onnxruntime.__file__).parent) -> Path:
    """Return the path of ONNX Runtime's shared library, which is inside the Python package's folder."""
    (library,) = (path for path in (package / "capi").glob("libonnxruntime.so.*") if path.is_file())
    return library


@functools.cache
def meddling_onnxruntime() -> Path:
    """Build a library that acts as ONNX Runtime, but swaps paths while it loads a model.

    The code is in `sdk_meddling_onnxruntime.c`.
    """
    cache = (ROOT / "build" / "native" / "CMakeCache.txt").read_text()
    (headers,) = re.findall(r"^ONNXRUNTIME_INCLUDE_DIR:\w+=(.*)$", cache, re.MULTILINE)
    library = scratch_folder() / "libonnxruntime.so"
    built("cc", "-shared", "-fPIC", "-I", headers, "-o", library, SOURCES / "sdk_meddling_onnxruntime.c", "-ldl")
    return library


def _read_routing(stream: BinaryIO) -> dict[str, Any]:
    """Read one `vmoe::LayerRouting` in the form in which `sdk_runner` writes it.

    Return its `kind`, and its arrays by name. Empty arrays are returned as None.
    """
    kind, groups, tokens, choices, experts, slots, rows, columns = np.frombuffer(stream.read(64), np.int64).tolist()
    pairs, shares = (groups, tokens, choices), (groups, tokens, experts, slots)

    def array(dtype: type, shape: tuple[int, ...]) -> np.ndarray | None:
        size = int.from_bytes(stream.read(8), "little")
        data = np.frombuffer(stream.read(size * np.dtype(dtype).itemsize), dtype)
        return data.reshape(shape) if size else None

    return {
        "kind": kind,
        "expert": array(np.int32, pairs),
        "kept": array(np.bool_, pairs),
        "weight": array(np.float32, pairs),
        "dispatch": array(np.float32, shares),
        "combine": array(np.float32, shares),
        "token": array(np.int32, (-1,)),
        "patch_mask": array(np.bool_, (-1, rows, columns)),
    }


class Runner:
    """A running `sdk_runner` program, which runs an engine in another process."""

    def __init__(
        self, program: Sequence[str | Path], bundle: Path, folder: Path, *, library: Path | None = None, threads: int = 1
    ) -> None:
        """Start the command `program`.

        The command is the path of an `sdk_runner`. If an emulator is used, the emulator's command comes before the path.
        `folder` is for files that contain images and outputs. `library` is the ONNX Runtime to use. By default, it is the
        installed one.
        """
        self._folder = folder
        command = [*program, bundle, library or onnxruntime_library(), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *fields: object) -> list[str]:
        """Send a command, and return the fields of the reply without the leading "ok". Fail if the reply is an error."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\t".join(map(str, fields)) + "\n")
        self._process.stdin.flush()
        verdict, *answer = self._process.stdout.readline().removesuffix("\n").split("\t")
        if verdict != "ok":
            raise AssertionError(answer)
        return answer

    def info(self) -> dict[str, str]:
        """Return the information that the engine gives about itself."""
        return dict(field.split("=", 1) for field in self.ask("info"))

    def logits(self, images: np.ndarray, **setting: Any) -> np.ndarray:
        """Return the logits for uint8 or float32 images, as float32[N, outputs]."""
        return np.fromfile(self._send("run", images, setting)[0], np.float32).reshape(len(images), -1)

    def outputs(self, images: np.ndarray, **setting: Any) -> dict[str, np.ndarray]:
        """Return all outputs by name. Each is float32[N, values] or float32[N, rows, values]."""
        file, outputs = self._send("outputs", images, setting)
        left, found = np.fromfile(file, np.float32), {}
        for name, rows, columns in map(str.split, outputs):
            shape = (len(images), *([int(rows)] if rows != "0" else []), int(columns))
            values, left = np.split(left, [np.prod(shape)])
            found[name] = values.reshape(shape)
        assert not left.size
        return found

    def routing(self, images: np.ndarray, **setting: Any) -> dict[str, dict[str, Any]]:
        """Return how the tokens are routed in each MoE layer, by layer."""
        file, layers = self._send("routing", images, setting)
        with file.open("rb") as stream:
            routes = {layer: _read_routing(stream) for layer in layers}
            assert not stream.read()
        return routes

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait() == 0

    def _send(self, command: str, images: np.ndarray, setting: dict[str, Any]) -> tuple[Path, list[str]]:
        given, output = self._folder / "images", self._folder / "output"
        images.tofile(given)
        return output, self.ask(command, *setting_fields(**setting), images.dtype, len(images), given, output)


def setting_fields(**setting: Any) -> list[str]:
    """Return the fields that represent a setting in a command. The parameters are the same as in `Engine.setting`."""
    names = ("profile", "capacity", "k", "bpr", "pool", "max_experts", "merge")
    assert setting.keys() <= set(names)
    values = (int(value) if isinstance(value, bool) else value for value in map(setting.get, names))
    return ["-" if value is None else value if isinstance(value, str) else repr(value) for value in values]


@pytest.fixture(scope="module", params=["standard ops", "vmoe op library"])
def prefix(request: pytest.FixtureRequest) -> Path:
    """Return an install prefix.

    Tests with this fixture run twice: with the prefix that lacks the op library, and with the prefix that has it.
    """
    found = prefixes().all.get(request.param)
    if found is None:
        pytest.skip("the op library was not built here")
    return found


@pytest.fixture
def runners(tmp_path: Path) -> Iterator[Callable[..., Runner]]:
    """Return a function that starts an `sdk_runner`, given a prefix and a bundle. All runners end after the test."""
    with ExitStack() as started:

        def start(prefix: Path, bundle: Path, **options: Any) -> Runner:
            runner = Runner([program(prefix, "sdk_runner")], bundle, tmp_path, **options)
            started.callback(runner.close)
            return runner

        yield start
