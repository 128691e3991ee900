"""README's example on what `pip install '.[cpu]'` brings; an extra that is not there is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from damaged_files import assert_one_sentence

ROOT = Path(__file__).parents[2]
CATCH = "from vmoe_runtime import VmoeError\ntry:\n{program}\nexcept VmoeError as error: print(error)"


@pytest.fixture
def folder(tmp_path: Path, mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray]) -> Path:
    """Where README's example runs: its bundle, and images for it."""
    (tmp_path / "mnist.vmoe").symlink_to(mnist_image_bundle)
    np.save(tmp_path / "images.npy", mnist_images["images"][:4, ..., None])
    return tmp_path


def example() -> str:
    """The first Python program of README."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found
    assert "Engine.load" in found[1]
    return found[1]


def run(folder: Path, program: str, *packages: str) -> str:
    """What a program prints where these packages and the runtime are installed, and no other."""
    site = folder / "site"
    site.mkdir()
    places = {"numpy": Path(np.__file__).parent, "onnxruntime": Path(onnxruntime.__file__).parent}
    for name in packages:
        place = places[name]
        for source in (place, place.with_name(f"{name}.libs")):
            if source.is_dir():
                (site / source.name).symlink_to(source)
    (site / "vmoe_runtime").symlink_to(ROOT / "runtime" / "vmoe_runtime")
    program = f"import numpy\nimages = numpy.load('images.npy')\n{program}"
    command = [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path.append({str(site)!r})\n{program}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def test_readmes_example_runs_on_numpy_and_onnxruntime_alone(folder: Path) -> None:
    others = "sorted({*sys.modules} & {'torch', 'onnx', 'PIL'})"
    program = f"{example()}\nprint(engine.backend, logits.shape, len(routes), {others})"
    assert run(folder, program, "numpy", "onnxruntime") == "onnxruntime (4, 10) 5 []"


def test_without_a_backend_the_example_names_the_extra(folder: Path) -> None:
    program = CATCH.format(program="".join(f"    {line}\n" for line in example().splitlines()))
    assert_one_sentence(run(folder, program, "numpy"), "no backend is installed", "pip install 'vmoe-export[cpu]'")


def test_without_pillow_a_picture_file_names_the_extra(folder: Path) -> None:
    (folder / "picture.png").write_bytes(b"a picture's bytes")
    program = CATCH.format(program="    from vmoe_runtime import Engine\n    Engine.load('mnist.vmoe')('picture.png')")
    assert_one_sentence(run(folder, program, "numpy", "onnxruntime"), "pillow", "pip install 'vmoe-export[images]'")
