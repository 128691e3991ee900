"""The trained MNIST model: official predictions at all 24 settings, and a runtime that needs neither torch nor onnx."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_parts import in_parts

from vmoe_runtime import Engine

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
SETTINGS = [(ratio, k, bpr) for ratio in (0.1, 0.2, 0.3, 0.5, 1.05, 2.0) for k in (1, 2) for bpr in (True, False)]


@pytest.fixture(scope="module")
def engine(mnist_bundle: Path) -> Engine:
    return Engine.load(mnist_bundle)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(MNIST / "reference.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.mark.parametrize(("ratio", "k", "bpr"), SETTINGS)
def test_predictions_are_the_official_ones(
    engine: Engine,
    mnist_images: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    ratio: float,
    k: int,
    bpr: bool,
) -> None:
    (logits,) = in_parts(lambda part: [engine(part, capacity=ratio, k=k, bpr=bpr)], mnist_images["images"])
    name = f"K{k}_C{ratio}_{'bpr' if bpr else 'vanilla'}"
    assert (logits.argmax(axis=1) == reference[f"pred_{name}"]).sum() >= 1535
    np.testing.assert_allclose(logits[:128], reference[f"logits_{name}"], rtol=0, atol=1e-5)


_ANSWER = """
import json, sys, time
start = time.perf_counter()
import numpy as np
from vmoe_runtime import Engine
with Engine.load(sys.argv[1]) as engine:
    logits = engine(np.load(sys.argv[2])["images"][:16])
print(json.dumps({"seconds": time.perf_counter() - start, "answers": logits.argmax(axis=1).tolist()}))
for name in ("torch", "onnx", "vmoe_export", "PIL", "rich"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} is there")
"""


def test_the_runtime_answers_within_a_second_where_torch_and_onnx_are_not_installed(
    tmp_path: Path, mnist_bundle: Path, mnist_data: Path, reference: dict[str, np.ndarray]
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    # What `pip install vmoe-export[cpu]` brings: numpy, onnxruntime and its own requirements, and the runtime.
    for name in ("numpy", "onnxruntime", "flatbuffers", "google", "packaging", "vmoe_runtime"):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            continue
        folders = [Path(folder) for folder in spec.submodule_search_locations]
        # An editable installation has a folder of its own for what was compiled.
        source = next((folder for folder in folders if (folder / "__init__.py").is_file()), folders[0])
        (site / name).symlink_to(source)
        if (libraries := source.with_name(f"{name}.libs")).is_dir():
            (site / libraries.name).symlink_to(libraries)
    command = [sys.executable, "-S", "-E", "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{_ANSWER}"]
    seconds = []
    for _ in range(5):
        done = subprocess.run(
            [*command, str(mnist_bundle), str(mnist_data)], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["answers"] == reference["pred_K1_C0.1_bpr"][:16].tolist()
        seconds.append(result["seconds"])
    # The fastest of five: other work on the machine must not decide.
    assert min(seconds) < 1
