"""Check that the C++ SDK, in a project outside the repository, gives the same bits as the Python engine.

The bits must not depend on the number of threads.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import sdk_build
from PIL import Image
from sdk_build import Runner
from wheels import OLDEST_ONNXRUNTIME, onnxruntime_folder

from vmoe_export import export_bundle
from vmoe_runtime import __version__, op_library
from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.engine import Engine
from vmoe_runtime.precisions import PRECISIONS
from vmoe_runtime.routing import Routing
from vmoe_runtime.routing_kinds import ROUTING_KINDS

pytestmark = pytest.mark.long

ROUTED: list[dict[str, Any]] = [
    {},
    {"profile": "c0.1-k2"},
    {"capacity": 0.7, "k": 3, "bpr": False},
    {"profile": "c0.2-k1-pool-m4"},
    {"profile": "c0.2-k1-vanilla-pool", "k": 2},
    {"pool": True, "max_experts": 3},
    {"profile": "c0.1-k1-pool-m2", "pool": False, "max_experts": 100},
]
SETTINGS = [
    {"capacity": ratio, "k": k, "bpr": bpr}
    for ratio in (0.1, 0.2, 0.3, 0.5, 1.05, 2.0)
    for k in (1, 2)
    for bpr in (True, False)
]
PUBLIC = {
    "vmoe_cancellation_cancel", "vmoe_cancellation_create", "vmoe_cancellation_free",
    "vmoe_elastic_create", "vmoe_elastic_decide", "vmoe_elastic_free", "vmoe_elastic_served",
    "vmoe_engine_class_name", "vmoe_engine_free", "vmoe_engine_info", "vmoe_engine_load", "vmoe_engine_moe_layer",
    "vmoe_engine_check_images", "vmoe_engine_output", "vmoe_engine_run_outputs",
    "vmoe_engine_prepare_image", "vmoe_engine_profile", "vmoe_engine_routing", "vmoe_engine_run",
    "vmoe_engine_run_cancellable", "vmoe_engine_setting", "vmoe_engine_warm_up",
    "vmoe_routing_free", "vmoe_routing_layer", "vmoe_routing_num_layers", "vmoe_set_log", "vmoe_status_code",
    "vmoe_status_free", "vmoe_status_message", "vmoe_version",
}  # fmt: skip


@functools.cache
def python_engine(bundle: Path, prefix: Path, threads: int = 1) -> Engine:
    """Load the Python engine with the same graph and op library as the SDK in `prefix`."""
    library = prefix / "lib" / sdk_build.OP_LIBRARY
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loading an engine without an op library causes a warning
        patch.setattr(op_library, "find_library", lambda: library if library.is_file() else None)
        return Engine.load(bundle, backend="onnxruntime", threads=threads)


def bits(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()


def assert_same_bits(runner: Runner, engine: Engine, images: np.ndarray, **setting: Any) -> None:
    """Assert that the SDK's outputs have the same bits as the Python engine's outputs."""
    assert bits(runner.logits(images, **setting)) == bits(engine(images, **setting)), setting


@pytest.mark.sample(1)
@pytest.mark.parametrize("bundle", ["mnist_bundle", "mnist_image_bundle"])
def test_all_mnist_images_have_the_bits_of_the_python_engine(
    bundle: str, prefix: Path, runners: Any, mnist_images: dict[str, np.ndarray], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(bundle)
    runner = runners(prefix, path)
    thirds = np.split(mnist_images["images"][..., None], 3)
    for images, (ratio, k, bpr) in zip(thirds, ((0.1, 1, True), (0.3, 2, False), (1.05, 1, True)), strict=True):
        assert_same_bits(runner, python_engine(path, prefix), images, capacity=ratio, k=k, bpr=bpr)


def test_every_setting_has_the_bits_of_the_python_engine(
    prefix: Path, runners: Any, mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:64][..., None]
    runner = runners(prefix, mnist_bundle)
    for setting in SETTINGS + ROUTED:
        assert_same_bits(runner, python_engine(mnist_bundle, prefix), images, **setting)


def test_two_threads_per_call_give_the_bits_of_the_python_engine(
    prefix: Path, runners: Any, mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:128][..., None]
    runner = runners(prefix, mnist_bundle, threads=2)
    assert_same_bits(runner, python_engine(mnist_bundle, prefix, threads=2), images)


def test_float32_and_uint8_images_are_the_same_to_a_float32_bundle(
    prefix: Path, runners: Any, mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    images = np.concatenate([mnist_images["images"][:16, ..., None], np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)])
    scaled = images.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    runner = runners(prefix, mnist_image_bundle)
    assert bits(runner.logits(images)) == bits(runner.logits(scaled))
    assert_same_bits(runner, python_engine(mnist_image_bundle, prefix), scaled)


def test_a_uint8_bundle_of_features_runs(
    prefix: Path, runners: Any, mnist_checkpoint: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "uint8.vmoe"
    export_bundle(mnist_checkpoint, path, capacity=[0.3], k=[1], input="uint8", output="features", validate=False)
    images = mnist_images["images"][:8][..., None]
    runner = runners(prefix, path)
    information = runner.info()
    assert (information["input_dtype"], information["output"], information["output_size"]) == ("2", "2", "64")
    assert_same_bits(runner, python_engine(path, prefix), images)


def test_routing_is_that_of_the_python_engine(
    prefix: Path, runners: Any, mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:32][..., None]
    runner = runners(prefix, mnist_bundle)
    for setting in ROUTED:
        expected = python_engine(mnist_bundle, prefix).routing(images, **setting)
        found = runner.routing(images, **setting)
        assert list(found) == list(expected)
        for layer, routing in found.items():
            assert_same_routing(routing, expected[layer])


def assert_same_routing(found: dict[str, Any], expected: Routing) -> None:
    """Assert that the SDK returns the same routing arrays as Python, bit for bit."""
    assert found["kind"] == ROUTING_KINDS.index(expected.kind) + 1
    for name in ("expert", "kept", "weight", "dispatch", "combine"):
        one, other = found[name], getattr(expected, name)
        assert (one is None) == (other is None), name
        assert one is None or (one.dtype, *bits(one)) == (other.dtype, *bits(other)), name
    assert (found["token"] is None) == (expected.token is None)
    assert expected.token is None or found["token"].tobytes() == expected.token.tobytes()
    assert bits(found["patch_mask"]) == bits(expected.patch_mask())


GoldenConfig = tuple[str, str, bool, int, Output]


def golden_config(case: golden.Case) -> GoldenConfig:
    return case.model, case.group, case.bfloat16, case.raw.get("capacity_multiple_of") or 1, case.output


# Each entry in GOLDEN is an export that some cases need. In the ensemble cases, a group consists of half an image, of one
# image, or of several images.
CASES = [*golden.cases(), *(c for c in golden.ensemble_cases() if c.group in ("tokens:26", "tokens:52", "tokens:96"))]
GOLDEN = sorted({golden_config(case) for case in CASES})


@functools.cache
def golden_bundle(config: GoldenConfig) -> Path:
    model, group, bfloat16, multiple, output = config
    options: dict[str, Any] = {"output": output}
    if golden.settings(model)["model"]["encoder"].get("moe"):
        options |= {"capacity": [1.05], "k": [1], "group": group}
        options |= {"capacity_multiple_of": multiple, "dispatch_bf16": bfloat16}
    return golden.bundle(model, sdk_build.scratch_folder() / "golden.vmoe", **options)


@pytest.mark.sample(5)
@pytest.mark.parametrize("config", GOLDEN, ids=lambda config: "-".join(map(str, config)))
def test_golden_configs_have_the_bits_of_the_python_engine(config: GoldenConfig, prefix: Path, runners: Any) -> None:
    path = golden_bundle(config)
    runner = runners(prefix, path)
    for case in (case for case in CASES if golden_config(case) == config):
        profile = case.profile
        setting = {} if profile is None else {"capacity": profile.capacity_ratio, "k": profile.k, "bpr": profile.bpr}
        found = runner.logits(case.images, **setting)
        expected = python_engine(path, prefix)(case.images, **setting)
        assert bits(found) == bits(expected.reshape(len(expected), -1)), case
        found = found.reshape(expected.shape)
        np.testing.assert_allclose(found, case.logits, rtol=0, atol=3e-3 if case.bfloat16 else 1e-5)


def test_profiles_and_metadata_are_those_of_the_manifest(prefix: Path, runners: Any, mnist_bundle: Path) -> None:
    manifest = Bundle.open(mnist_bundle).manifest
    runner = runners(prefix, mnist_bundle, threads=2)
    assert runner.ask("profiles") == [described(profile) for profile in manifest.profiles.values()]
    found = runner.info()
    runtime, _, missing = found.pop("runtime").partition("; ")
    assert runtime == python_engine(mnist_bundle, prefix).backend_description.partition("; ")[0]
    assert ("there is no op library" in missing) == runtime.endswith("standard ops")
    assert found == {
        "height": "28", "width": "28", "channels": "1", "input_dtype": "1", "output": "1", "output_size": "10",
        "batch_multiple": "16", "num_experts": "8", "group_tokens": "800", "group": "16", "threads": "2", "precision": "1",
        "preprocessing": "resize(28)", "moe_layers": "".join(f"encoderblock_{i}," for i in range(5)), "class_names": "",
        "ensemble_size": "1", "routing_kind": "1", "front_tokens": "1", "patches": "7x7",
        "uses_op_library": str(int((prefix / "lib" / sdk_build.OP_LIBRARY).is_file())),
    }  # fmt: skip


@pytest.mark.sample(5)
@pytest.mark.parametrize(("code", "precision"), [*enumerate(PRECISIONS, 1)])
def test_class_names_and_the_code_of_a_precision_are_read(
    code: int, precision: Any, prefix: Path, runners: Any, mnist_checkpoint: Path, tmp_path: Path
) -> None:
    path, names = tmp_path / "x.vmoe", [f"Ziffer {i} \u2013 \u6570" for i in range(10)]
    options: dict[str, Any] = {"precision": precision, "class_names": names, "validate": False}
    found = runners(prefix, export_bundle(mnist_checkpoint, path, capacity=[0.3], k=[1], **options).path).info()
    assert (found["precision"], found["class_names"]) == (str(code), "".join(f"{name}," for name in names))


def described(profile: Any) -> str:
    """Return a profile as `sdk_runner` prints it."""
    capacity = "".join(f"{places}," for places in profile.slots)
    numbers = f"{c_hex(profile.capacity_ratio)} {c_hex(profile.effective_ratio)}"
    choices = f"{profile.k} {int(profile.bpr)} {int(profile.pool)} {profile.max_experts} {profile.merge}"
    return f"{profile.name} {numbers} {choices} {capacity}"


def c_hex(value: float) -> str:
    """Format a number in the same way as C's `%a`, which omits trailing zeros."""
    mantissa, exponent = value.hex().split("p")
    digits = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{digits}p{exponent}"


def test_eight_threads_get_the_single_threaded_bits_and_engines_share_one_session(prefix: Path, mnist_bundle: Path) -> None:
    said = sdk_build.built(sdk_build.program(prefix, "engine_threads"), mnist_bundle, sdk_build.onnxruntime_library(), "2")
    assert said.startswith("equal 32 of 32 loads 16 profiles 12 ")


def test_the_same_binary_runs_with_the_oldest_onnxruntime(
    prefix: Path, runners: Any, mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:256, ..., None]
    library = sdk_build.onnxruntime_library(onnxruntime_folder(OLDEST_ONNXRUNTIME) / "onnxruntime")
    runner = runners(prefix, mnist_bundle, library=library)
    assert f"ONNX Runtime {OLDEST_ONNXRUNTIME} CPU" in runner.info()["runtime"]
    expected = python_engine(mnist_bundle, prefix)(images)
    np.testing.assert_allclose(runner.logits(images), expected, rtol=0, atol=1e-5)


def test_onnxruntime_is_found_by_the_environment_variable(prefix: Path, mnist_bundle: Path) -> None:
    program = sdk_build.program(prefix, "sdk_runner")
    library = str(sdk_build.onnxruntime_library())
    done = sdk_build.run(program, mnist_bundle, "", "1", text="info\n", VMOE_ONNXRUNTIME=library)
    assert done.returncode == 0 and "ONNX Runtime" in done.stdout
    refused = sdk_build.run(program, mnist_bundle, "", "1", VMOE_ONNXRUNTIME="/absent/libonnxruntime.so")
    assert refused.returncode == 1 and "VMOE_ONNXRUNTIME=/absent/libonnxruntime.so" in refused.stdout


def assert_loads(program: Path, bundle: Path, **environment: str) -> None:
    """Assert that the program `sdk_c_only` loads the bundle.

    It must also print the version and a status without a message.
    """
    done = sdk_build.run(program, bundle, sdk_build.onnxruntime_library(), **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__} 0 \n", "")


def test_only_the_public_functions_are_exported(prefix: Path) -> None:
    listing = sdk_build.built("nm", "-D", "--defined-only", prefix / "lib" / "libvmoe_engine.so")
    assert {line.split()[-1] for line in listing.splitlines()} == PUBLIC


def test_the_engine_library_links_no_onnxruntime(prefix: Path) -> None:
    assert "onnxruntime" not in sdk_build.built("readelf", "-d", prefix / "lib" / "libvmoe_engine.so")


def test_the_cmake_package_works_in_c_after_its_folder_was_moved(prefix: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(prefix, moved)
    folder = sdk_build.programs(moved, "sdk_c_only")
    assert_loads(folder / "sdk_c_only", mnist_bundle)
    library = moved / "lib" / sdk_build.OP_LIBRARY
    assert (folder / "op_library.txt").read_text() == (str(library) if library.is_file() else "")
    assert str(sdk_build.ROOT) not in (moved / "lib" / "cmake" / "vmoe" / "vmoeTargets.cmake").read_text()


def assert_pkg_config_finds(libraries: Path, bundle: Path, folder: Path) -> None:
    if not shutil.which("pkg-config"):
        pytest.skip("pkg-config is not installed")
    flags = sdk_build.built("pkg-config", "--cflags", "--libs", "vmoe", PKG_CONFIG_PATH=str(libraries / "pkgconfig"))
    sdk_build.built("cc", sdk_build.SOURCES / "sdk_c_only.c", *flags.split(), "-o", folder / "c_only")
    assert_loads(folder / "c_only", bundle, LD_LIBRARY_PATH=str(libraries))


def test_pkg_config_finds_it_wherever_it_lies(prefix: Path, mnist_bundle: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(prefix, tmp_path / "elsewhere")
    assert_pkg_config_finds(moved / "lib", mnist_bundle, tmp_path)


@pytest.mark.parametrize("header", ["engine.hpp", "levels.hpp", "elastic.hpp"])
def test_programs_without_exceptions_can_include(header: str) -> None:
    options = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]
    include = sdk_build.ROOT / "plugins" / "include"
    sdk_build.built("c++", *options, f"-I{include}", "-x", "c++", "-include", f"vmoe/{header}", "/dev/null")


@pytest.mark.parametrize("folder", ["lib64", "lib/x86_64-linux-gnu"])
def test_the_libraries_may_have_another_folder_in_the_prefix(folder: str, mnist_bundle: Path, tmp_path: Path) -> None:
    build, moved = tmp_path / "build", tmp_path / "prefix"
    options = ["-DVMOE_GPU=OFF", f"-DCMAKE_INSTALL_LIBDIR={folder}"]
    sdk_build.built("cmake", "-S", sdk_build.ROOT / "plugins", "-B", build, *sdk_build.generator(), *options)
    (build / "lib").mkdir(exist_ok=True)
    shutil.copy2(sdk_build.prefixes().whole / "lib" / "libvmoe_engine.so", build / "lib")
    sdk_build.built("cmake", "--install", build, "--component", "sdk", "--prefix", moved)
    assert_pkg_config_finds(moved / folder, mnist_bundle, tmp_path)


_FROM_ANOTHER_FOLDER = """
import ctypes, os, sys
sdk = ctypes.CDLL("lib/libvmoe_engine.so")
os.chdir("/")
log = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(lambda _user, _, text: print(text.decode()))
sdk.vmoe_set_log(1, log, None, None)
sdk.vmoe_engine_load(os.fsencode(sys.argv[1]), None, ctypes.byref(ctypes.c_void_p()))
"""


def test_a_relative_path_of_the_libraries_holds_after_the_process_changed_folder(prefix: Path, mnist_bundle: Path) -> None:
    variables = {"VMOE_ONNXRUNTIME": str(sdk_build.onnxruntime_library())}
    said = sdk_build.built(sys.executable, "-c", _FROM_ANOTHER_FOLDER, mnist_bundle, folder=prefix, **variables)
    assert f"CPU, {next(words for words, folder in sdk_build.prefixes().all.items() if folder == prefix)}" in said


def test_a_project_that_builds_the_sources_has_the_op_library_beside_the_sdk(tmp_path: Path) -> None:
    if not (sdk_build.prefixes().whole / "lib" / sdk_build.OP_LIBRARY).is_file():
        pytest.skip("the op library was not built here")
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.22)
project(host LANGUAGES CXX)
add_subdirectory({sdk_build.ROOT}/plugins vmoe)
file(GENERATE OUTPUT folders CONTENT $<TARGET_FILE_DIR:vmoe::engine>|$<TARGET_FILE_DIR:vmoe_onnxruntime>)
""")
    build = tmp_path / "build"
    options = ["-DVMOE_GPU=OFF", "-DCMAKE_CXX_FLAGS=-ffast-math", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    sdk_build.built("cmake", "-S", tmp_path, "-B", build, *sdk_build.generator(), *options)
    for compiled in json.loads((build / "compile_commands.json").read_text()):
        assert compiled["command"].rindex("-fno-fast-math") > compiled["command"].rindex("-ffast-math")
    assert (build / "folders").read_text() == f"{build}/vmoe/lib|{build}/vmoe/lib"
    # CMake puts the build type into the name of the file that contains the library's location. Here the build type is empty,
    # for which CMake writes "noconfig".
    assert "-noconfig.cmake" in (build / "vmoe" / "sdk" / "cmake_install.cmake").read_text()


def test_the_minimal_sample_names_the_class_of_an_image_file(
    prefix: Path, mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    if not any(Path(folder, "stb_image.h").is_file() for folder in ("/usr/include/stb", "/usr/local/include/stb")):
        pytest.skip("stb_image.h is not installed (Debian package libstb-dev)")
    program = sdk_build.minimal_sample(prefix)
    library = str(sdk_build.onnxruntime_library())
    engine = python_engine(mnist_image_bundle, prefix)
    for i in range(4):
        pixels = mnist_images["images"][i]
        Image.fromarray(pixels).save(tmp_path / "digit.png")
        logits = engine(pixels[None], profile="c1.05-k1")[0]
        done = sdk_build.run(program, mnist_image_bundle, tmp_path / "digit.png", "c1.05-k1", VMOE_ONNXRUNTIME=library)
        assert done.stdout == f"class {logits.argmax()} {logits.max():.4f}\n"
    refused = sdk_build.run(program, mnist_image_bundle, "absent.png", VMOE_ONNXRUNTIME=library)
    assert refused.returncode == 1 and "absent.png is not a readable image" in refused.stderr


def test_the_service_sample_runs_the_op_library_in_its_own_session(
    mnist_checkpoint: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    program = sdk_build.service_sample()
    images = mnist_images["images"][:32]
    images.tofile(tmp_path / "images.raw")
    bundle = tmp_path / "pooled.vmoe"
    export_bundle(mnist_checkpoint, bundle, capacity=[0.1, 2.0], k=[1, 2], pool=True, max_experts=3, validate=False)
    profiles = list(Bundle.open(bundle).manifest.profiles)
    assert profiles[0] == "c0.1-k1-pool-m3"
    done = sdk_build.run(program, bundle, tmp_path / "images.raw", *profiles)
    engine = python_engine(bundle, sdk_build.prefixes().whole)
    expected = [f"{name} {' '.join(map(str, engine(images, profile=name).argmax(axis=1)))}\n" for name in profiles]
    assert (done.stdout, done.stderr) == ("".join(expected), "")
