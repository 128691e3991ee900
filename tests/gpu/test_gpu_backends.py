"""Check GPU backends with the real packages, on a machine without a GPU.

Each backend must report in one sentence what is missing.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import fake_gpu
import numpy as np
import onnxruntime
import pytest
import sdk_build
from damaged_files import assert_one_sentence, refusal
from wheels import wheel_folder

import vmoe_runtime
from vmoe_runtime import BackendError, Engine
from vmoe_runtime.__main__ import main
from vmoe_runtime.backends import BACKENDS, nvidia_gpu, onnxruntime_cuda
from vmoe_runtime.backends.nvidia_gpu import find_gpu
from vmoe_runtime.errors import UnavailableError
from vmoe_runtime.installation import find_native
from vmoe_tools import program

ON_GPU = [name for name, kind in BACKENDS.items() if kind.on_gpu]
RUNTIME = Path(vmoe_runtime.__file__).parents[1]
MODULES = [Path("vmoe_runtime/backends/tensorrt/tensorrt_api.py"), Path("vmoe_tools/build/tensorrt_builder.py")]
GPU_WHEEL, CUDA_WHEELS = "onnxruntime-gpu==1.31.1", ("cuda-bindings==13.4.4", "cuda-pathfinder==1.9.0")
TENSORRT_WHEELS = ("tensorrt-cu12-bindings==10.13.0.35", "tensorrt-cu12-bindings==11.4.0.106")


def has_gpu() -> bool:
    try:
        find_gpu()
    except UnavailableError:
        return False
    return True


without_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")


def python(script: str, *arguments: object, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in Python. Packages in the folder `packages` take precedence over those in this environment."""
    path = os.pathsep.join(map(str, (packages, RUNTIME) if packages else (RUNTIME,)))
    return sdk_build.run(sys.executable, "-c", script, *map(str, arguments), PYTHONPATH=path)


LOAD = """
import sys
from vmoe_runtime import BackendError, Engine
try:
    print(Engine.load(sys.argv[1], backend=sys.argv[2]).backend_description)
except BackendError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("backend", ["cuda", "ort-tensorrt"])
def test_an_onnxruntime_for_cpus_says_what_to_install_for_a_gpu(
    bundle: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "has_driver", lambda: True)
    with refusal(UnavailableError, "has no ", "ExecutionProvider", "pip install 'vmoe-export[gpu]'"):
        Engine.load(bundle, backend=backend)


@without_gpu
@pytest.mark.parametrize("backend", ["cuda", "ort-tensorrt"])
def test_without_a_driver_nothing_is_to_be_installed(bundle: Path, backend: str) -> None:
    with pytest.raises(UnavailableError, match=r"^there is no NVIDIA driver on this machine \(.*\)$"):
        Engine.load(bundle, backend=backend)


@without_gpu
@pytest.mark.parametrize("backend", ["cuda", "ort-tensorrt"])
def test_an_onnxruntime_for_gpus_without_a_driver_is_one_sentence_and_prints_nothing(bundle: Path, backend: str) -> None:
    done = python(LOAD, bundle, backend, packages=wheel_folder(GPU_WHEEL))
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_sentence(done.stderr.removesuffix("\n"), "there is no NVIDIA driver on this machine", "libcuda.so.1")


MISSING = """
import sys
from pathlib import Path
from vmoe_runtime.backends.onnxruntime_cuda import missing_library
print(missing_library(Path(sys.argv[1])))
"""


@without_gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_library_that_a_provider_lacks_is_named(provider: str) -> None:
    packages = wheel_folder(GPU_WHEEL)
    library = packages / "onnxruntime" / "capi" / f"libonnxruntime_providers_{provider}.so"
    done = python(MISSING, library, packages=packages)
    assert (done.returncode, done.stderr) == (0, "")
    assert_one_sentence(done.stdout.removesuffix("\n"), "can't be loaded; run pip install 'vmoe-export[gpu]'")


def test_a_provider_that_wants_another_tensorrt_says_which(tmp_path: Path) -> None:
    (tmp_path / "none.c").write_text("")
    for name, soname, needs in (("gone.so", "libnvinfer.so.10", []), ("provider.so", "provider.so", [tmp_path / "gone.so"])):
        linked = ["-Wl,--no-as-needed", *needs, f"-Wl,-soname,{soname}", "-o", tmp_path / name]
        sdk_build.built("cc", "-shared", tmp_path / "none.c", *linked)
    (tmp_path / "gone.so").unlink()
    done = python(MISSING, tmp_path / "provider.so")
    assert_one_sentence(
        done.stdout.removesuffix("\n"), "needs TensorRT 10 (libnvinfer.so.10)", "pip install 'tensorrt==10.*'", "'tensorrt'"
    )


def test_a_driver_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The source of a driver that refuses every call, as if there were no GPU.
    source = (
        "int cuInit(unsigned flags) { return 100; }\n"
        'int cuGetErrorString(int code, const char** text) { *text = "no CUDA-capable device is detected"; return 0; }\n'
    )
    monkeypatch.setattr(nvidia_gpu, "_DRIVER", str(fake_gpu.compiled(tmp_path / "libcuda.so.1", source, {})))
    with refusal(UnavailableError, "no CUDA-capable device is detected (error 100 of cuInit)"):
        find_gpu()


@pytest.mark.parametrize("backend", ["ort-tensorrt", "tensorrt"])
def test_a_bundle_without_graphs_for_tensorrt_says_how_to_export_them(
    mnist_image_bundle: Path, bundle: Path, backend: str
) -> None:
    with refusal(BackendError, str(mnist_image_bundle), "export it again with --tensorrt"):
        Engine.load(mnist_image_bundle, backend=backend)
    with refusal(BackendError, "'c0.7-k2-vanilla'", "--tensorrt --capacity 0.7 --k 2 --no-bpr"):
        Engine.load(bundle, "c0.7-k2-vanilla", backend)


@without_gpu
def test_no_package_of_a_gpu_is_imported_where_there_is_none(bundle: Path) -> None:
    script = (
        "import sys\nfrom vmoe_runtime import Engine\nEngine.load(sys.argv[1])\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('tensorrt', 'cuda') or name.endswith('_gpu')])"
    )
    assert python(script, bundle).stdout == "['vmoe_runtime.backends.nvidia_gpu']\n"


def test_tensorrt_without_its_libraries_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    # The bindings are real. The real package `tensorrt` only re-exports them, and can't be installed without TensorRT's
    # libraries. So a small file replaces it.
    packages = wheel_folder(*TENSORRT_WHEELS[1:])
    (tmp_path / "tensorrt.py").write_text(
        f"import sys\nsys.path.insert(0, {str(packages)!r})\nfrom tensorrt_bindings import *\n"
    )
    done = python(LOAD, bundle, "tensorrt", packages=tmp_path)
    if "shared object file" not in done.stderr:
        pytest.skip("TensorRT's libraries are installed here")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_sentence(
        done.stderr.removesuffix("\n"), "backend 'tensorrt' is not installed (lib", "'vmoe-export[tensorrt]'"
    )


def names_used(roots: set[str]) -> set[str]:
    """Return the names of all attributes that the modules read from objects whose names are in `roots`.

    For example, if `roots` contains `config`, the expression `config.set_flag` adds `set_flag`.
    """

    def root(node: ast.expr) -> str:
        return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""

    found = set()
    for module in MODULES:
        for node in ast.walk(ast.parse((RUNTIME / module).read_text())):
            if isinstance(node, ast.Attribute) and root(node.value).strip("_") in roots:
                found.add(node.attr)
    return found


@pytest.mark.parametrize("wheel", TENSORRT_WHEELS)
def test_every_name_of_tensorrt_that_is_used_is_in_its_bindings(wheel: str) -> None:
    enums = {"ILogger", "Severity", "BuilderFlag", "MemoryPoolType", "NetworkDefinitionCreationFlag", "TensorIOMode"}
    objects = {"builder", "network", "parser", "config", "profile", "registry", "measured", "runtime", "engine", "context"}
    used = names_used({"tensorrt", *enums, *objects}) - {"__version__", "__init__"}
    assert {"execute_async_v3", "plugins_to_serialize", "STRONGLY_TYPED", "get_tensor_profile_shape", "TF32"} <= used
    bindings = (wheel_folder(wheel) / "tensorrt_bindings" / "tensorrt.so").read_bytes()
    # Search for each name together with the null byte that ends it. The start of the name can't be checked, because a linker
    # may store a string as the end of a longer string.
    assert {name for name in used if name.encode() + b"\0" not in bindings} == set()


def test_every_name_of_cuda_that_is_used_is_in_its_bindings() -> None:
    used = names_used({"cuda", "cudaMemcpyKind", "cudaError_t"})
    assert {"cudaMalloc", "cudaMemcpyAsync", "cudaMemcpyHostToDevice", "cudaSuccess"} <= used
    script = (
        "import sys\nfrom cuda.bindings import runtime as cuda\n"
        "owners = (cuda, cuda.cudaMemcpyKind, cuda.cudaError_t)\n"
        "print([name for name in sys.argv[1:] if not any(hasattr(owner, name) for owner in owners)])"
    )
    assert python(script, *sorted(used), packages=wheel_folder(*CUDA_WHEELS)).stdout == "[]\n"


@pytest.mark.skipif(not has_gpu(), reason="not run: there is no GPU here")
@pytest.mark.parametrize("backend", ON_GPU)
def test_a_gpu_gives_the_answers_of_the_cpu(
    backend: str, bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = mnist_images["images"][:32]
    monkeypatch.setenv("VMOE_CACHE_DIR", str(tmp_path))
    if backend == "tensorrt" and program.main(["build", str(bundle)]) != 0:
        pytest.skip("vmoe build says why")
    try:
        engine = Engine.load(bundle, backend=backend)
    except BackendError as error:
        pytest.skip(str(error))
    with engine, Engine.load(bundle, backend="onnxruntime") as cpu:
        np.testing.assert_allclose(engine(images), cpu(images), rtol=0, atol=1e-3)
        for found, expected in zip(engine.routing(images).values(), cpu.routing(images).values(), strict=True):
            assert np.mean((found.kept == expected.kept) & (found.expert == expected.expert)) > 0.995


@pytest.mark.parametrize(
    ("option", "library"),
    [
        ("--cuda-op-library", "libvmoe_onnxruntime_cuda.so"),
        ("--tensorrt-plugin", "libvmoe_tensorrt.so"),
        ("--tensorrt-register", "libvmoe_tensorrt_register.so"),
    ],
)
def test_a_library_is_found_or_what_it_lacked_is_told(option: str, library: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([option])
    out, err = capsys.readouterr()
    if find_native("lib", library):
        assert (code, Path(out.rstrip()).name, err) == (0, library, "")
    else:
        assert (code, out) == (1, "")
        assert_one_sentence(err.removesuffix("\n"), "this installation of vmoe-export has no ", "'pip install .'")
