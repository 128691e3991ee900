"""Check that bundles run on standard ops, with a warning, if the op library can't be loaded.

The tests cover Python and C++.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdk_build
from damaged_files import assert_one_sentence

from vmoe_export import export_bundle
from vmoe_runtime import Engine, op_library

pytestmark = pytest.mark.skipif(op_library.find_library() is None, reason="this installation has no op library")


def for_a_newer_system(library: bytes) -> bytes:
    assert b"\0GLIBC_2.2.5\0" in library or b"\0GLIBC_2.17\0" in library
    return library.replace(b"\0GLIBC_2.2.5\0", b"\0GLIBC_9.9.9\0").replace(b"\0GLIBC_2.17\0", b"\0GLIBC_9.99\0")


def no_library(_: bytes) -> bytes:
    return b"a name of a library, and nothing of one" * 10


SEVEN = Path(__file__).parents[2] / "samples" / "mnist" / "seven.png"
FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a newer system": (for_a_newer_system, "GLIBC_9.9"),
    "no library": (no_library, "ELF"),
}


@pytest.mark.parametrize("backend", ["onnxruntime", "auto"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_goes_on_with_standard_ops_says_why_and_warns_once(
    fault: str,
    backend: str,
    mnist_image_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = op_library.find_library()
    assert library is not None
    with Engine.load(mnist_image_bundle, backend="onnxruntime") as engine:
        expected = engine(mnist_images["images"][:4])
    damage, reason = FAULTS[fault]
    damaged = tmp_path / library.name
    damaged.write_bytes(damage(library.read_bytes()))
    monkeypatch.setattr(op_library, "find_library", lambda: damaged)
    with pytest.warns(RuntimeWarning) as warned, Engine.load(mnist_image_bundle, backend=backend) as engine:
        # If "auto" selects OpenVINO, the reason appears only in the warning, not in the backend's description.
        reasons = (f"; the op library {damaged}", reason) if engine.backend == "onnxruntime" else ()
        assert_one_sentence(engine.backend_description, "CPU, standard ops", *reasons)
        np.testing.assert_allclose(engine(mnist_images["images"][:4]), expected, rtol=0, atol=1e-4)
    assert len(warned) == 1
    assert_one_sentence(str(warned[0].message), str(damaged), reason, "Install vmoe-export again")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine.load(mnist_image_bundle, backend=backend).close()


@pytest.mark.parametrize("backend", ["onnxruntime", "auto"])
def test_without_an_op_library_an_engine_says_what_is_missing_and_what_mends_it(
    backend: str, mnist_image_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "int8.vmoe"
    export_bundle(mnist_image_bundle, short, precision="int8", validate=False)
    monkeypatch.setattr(op_library, "find_library", lambda: None)
    op_library.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning) as warned, Engine.load(mnist_image_bundle, backend=backend):
        pass
    (sentence,) = (str(warning.message) for warning in warned)
    for part in ("has no op library", "run 'pip install .'", "wheel", "several times as long"):
        assert part in sentence
    with pytest.warns(RuntimeWarning, match="int8 is slower than fp32") as warned, Engine.load(short, backend="onnxruntime"):
        pass
    assert len(warned) == 1


def test_the_program_shows_a_warning_as_one_line(mnist_image_bundle: Path) -> None:
    program = (
        "import sys; from vmoe_runtime import op_library; op_library.find_library = lambda: None; "
        "from vmoe_tools.program import main; sys.exit(main())"
    )
    done = sdk_build.run(sys.executable, "-c", program, "run", mnist_image_bundle, SEVEN, "--backend", "onnxruntime")
    assert done.stderr.startswith("vmoe: warning: this installation") and done.stderr.count("\n") == 1
    assert "standard ops; this installation of vmoe-export has no op library" in done.stdout.splitlines()[0]


def test_a_cpp_engine_goes_on_with_standard_ops_and_says_why(
    runners: Any,
    mnist_image_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = sdk_build.prefixes().whole
    library = Path(shutil.copytree(prefix / "lib", tmp_path / "lib")) / sdk_build.OP_LIBRARY
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    whole = library.read_bytes()
    answers = []
    for damage, reason in ((None, "CPU, vmoe op library"), *FAULTS.values()):
        library.unlink()
        library.write_bytes(whole if damage is None else damage(whole))
        runner = runners(prefix, mnist_image_bundle)
        said = runner.info()
        assert_one_sentence(said["runtime"], reason)
        assert (said["uses_op_library"] == "1") == (damage is None)
        if damage is not None:
            assert_one_sentence(said["runtime"], f"CPU, standard ops; the op library {library} can't be loaded")
        answers.append(runner.logits(mnist_images["images"][:4, ..., None]))
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=0, atol=1e-4)
