"""Check that the C++ SDK runs exactly the bytes that were verified.

The SDK must notice any change to the files while it loads them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import sdk_build
from bundle_changes import BUNDLES
from bundle_swaps import WEIGHTS, Load, image, other_bundle, swap
from damaged_files import assert_one_sentence, refusal

from vmoe_runtime import VmoeError

CHANGED = "was changed while it was loaded; load it again once nobody writes to it"


@pytest.fixture(scope="module")
def program() -> Path:
    return sdk_build.program(sdk_build.prefixes().standard_ops, "sdk_runner")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "v3-fp32", tmp_path / "own.vmoe"))


@pytest.fixture
def other(own: Path, tmp_path: Path) -> Path:
    return other_bundle(own, tmp_path / "other.vmoe")


def sdk_load(program: Path, library: Path, folder: Path, **environment: str) -> Load:
    """Load a bundle with the SDK in a separate process, and run it on one image."""

    def load(bundle: Path) -> np.ndarray:
        given, output = folder / "image", folder / "logits"
        given.write_bytes(image_bytes)
        command = "\t".join(map(str, ("run", *sdk_build.setting_fields(), "float32", 1, given, output)))
        done = sdk_build.run(program, bundle, library, "1", text=f"{command}\n", **environment)
        assert done.stderr == ""
        verdict, *rest = done.stdout.removesuffix("\n").split("\t")
        if verdict == "error":
            raise VmoeError(rest[1])
        return np.fromfile(output, np.float32)

    image_bytes = image(folder / "own.vmoe").tobytes()
    return load


@pytest.mark.parametrize("what", [WEIGHTS, "model.inlined.onnx", ""], ids=["weights", "graph", "folder"])
def test_what_is_exchanged_only_while_the_session_is_made_is_noticed(
    what: str, program: Path, own: Path, other: Path, tmp_path: Path
) -> None:
    def load(times: int) -> np.ndarray:
        environment = {
            "MEDDLE_LIBRARY": str(sdk_build.onnxruntime_library()),
            "MEDDLE_ONE": str(own / what),
            "MEDDLE_OTHER": str(other / what),
            "MEDDLE_TIMES": str(times),
        }
        return sdk_load(program, sdk_build.meddling_onnxruntime(), tmp_path, **environment)(own)

    right = load(0)
    assert not np.array_equal(right, sdk_load(program, sdk_build.onnxruntime_library(), tmp_path)(other))
    np.testing.assert_array_equal(load(2), right)  # the third attempt
    with refusal(VmoeError, CHANGED, "own.vmoe"):
        load(3)


@pytest.mark.slow
def test_swaps_at_any_moment_give_no_wrong_answer(program: Path, own: Path, tmp_path: Path) -> None:
    report = swap(own, 30, 20, sdk_load(program, sdk_build.onnxruntime_library(), tmp_path))
    assert report.failures == [] and min(report.endings["files: right"], report.endings["folders: right"]) > 0


def test_a_forked_process_loads_its_own_engine_and_is_refused_its_parents(mnist_image_bundle: Path) -> None:
    forking = sdk_build.program(sdk_build.prefixes().standard_ops, "sdk_fork")
    done = sdk_build.run(forking, mnist_image_bundle, sdk_build.onnxruntime_library())
    assert (done.returncode, done.stderr) == (0, "")
    refusal, same = done.stdout.splitlines()
    assert_one_sentence(refusal, "loaded before this process was forked", "load it in each process")
    assert same == "the same answer"
