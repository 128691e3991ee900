"""Swaps files of a bundle, or the whole bundle, with those of another bundle while the bundle is being loaded.

    python tests/support/bundle_swaps.py BUNDLE --files 600 --folders 400 [--backend openvino]

The program prints as JSON how many loads were right and how many were refused. A load must either be refused or give the
output of one of the two bundles. If any output was wrong, the exit code is 1. `--backend sdk` uses the SDK.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import c_engine
import numpy as np
import onnx
from damaged_files import copied_bundle, edited_graph
from hostile_runs import Report, run_program
from path_swapper import exchange_for_a_while

from vmoe_runtime import Engine, VmoeError
from vmoe_runtime.bundle.reader import Bundle

WEIGHTS, GRAPHS = "weights.safetensors", ("model.onnx", "model.inlined.onnx")
Load = Callable[[Path], np.ndarray]  # loads a bundle, runs it on an image that is always the same, and returns the logits


def other_bundle(bundle: Path, target: Path) -> Path:
    """Write a valid copy of a bundle with changed graphs and changed weights.

    If a load mixes files from the two bundles, its output differs from the output of each bundle.
    """
    weights = bytearray((bundle / WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(weights[:8], "little")
    begin, end = json.loads(weights[8:start])["head/bias"]["data_offsets"]
    bias = np.frombuffer(weights, np.float32, (end - begin) // 4, start + begin)
    bias += np.arange(len(bias), dtype=np.float32)

    def double(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["logits_of_weights" if name == "logits" else name for name in node.output]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(2), "two"))
        model.graph.node.append(onnx.helper.make_node("Mul", ["logits_of_weights", "two"], ["logits"]))

    graphs = {name: edited_graph(bundle, double, name) for name in GRAPHS}
    return copied_bundle(bundle, target, files={WEIGHTS: bytes(weights), **graphs})


def engine_load(backend: str, **options: bool) -> Load:
    """Return a function that loads a bundle with the Engine, runs it on `image(bundle)` and returns the logits."""

    def load(bundle: Path) -> np.ndarray:
        with Engine.load(bundle, backend=backend, threads=1, **options) as engine:
            return engine(image(bundle))

    return load


def sdk_load(bundle: Path) -> Load:
    """Return a function that loads a bundle with the C++ SDK, runs it on one image and returns the logits.

    The image and the number of outputs are taken from `bundle`, which can be any of the bundles that will be loaded.
    """
    given, outputs = image(bundle), Bundle.open(bundle, verify=False).manifest.outputs

    def load(bundle: Path) -> np.ndarray:
        try:
            return c_engine.answer(bundle, given, outputs)
        except c_engine.RefusedError as error:
            raise VmoeError(str(error)) from None

    return load


def image(bundle: Path) -> np.ndarray:
    """Return the image on which every load runs its bundle."""
    spec = Bundle.open(bundle, verify=False).manifest.input
    return np.linspace(-1, 1, spec.height * spec.width * spec.channels, dtype=np.float32).reshape(
        1, spec.height, spec.width, spec.channels
    )


def swap(bundle: Path, files: int, folders: int, load: Load) -> Report:
    """Load a copy of a bundle while its files or its folder are swapped with those of another bundle.

    Args:
        bundle: the bundle to copy and load.
        files: number of loads during which the weights or a graph are swapped. Only the bundle's own output is right.
        folders: number of loads during which the whole folder is swapped. The output of either bundle is right.
        load: a function that loads a bundle and returns its output.

    Returns:
        How many loads were right, wrong and refused, separately for "files" and "folders", and a line for each failure.
    """
    chance, report = random.Random(0), Report()
    # In two of three loads, swap the weights, because the runtime itself opens the weights file. In the other loads, swap a
    # graph.
    names = [WEIGHTS if turn % 3 else GRAPHS[turn // 3 % 2] for turn in range(files)]
    spawning = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=bundle.parent) as scratch, spawning.Pool(1) as swapper:
        own = Path(shutil.copytree(bundle, Path(scratch, "own.vmoe")))
        other = other_bundle(bundle, Path(scratch, "other.vmoe"))
        answers, start = {"folders": [load(own), load(other)]}, time.monotonic()
        answers["files"] = [load(own)]
        seconds = time.monotonic() - start
        for kind, name in (*(("files", name) for name in names), *[("folders", "")] * folders):
            # Half of the swaps are short, so that more swaps are undone before the load ends.
            moments = chance.uniform(0, seconds), chance.choice((0.1, 1)) * chance.uniform(0, seconds)
            exchange = swapper.apply_async(exchange_for_a_while, (own / name, other / name, *moments))
            try:
                answer = load(own)
            except VmoeError as error:
                report.endings[f"{kind}: refused"] += 1
                if "\n" in str(error):
                    report.failures.append(f"not one sentence: {error}")
            else:
                right = any(np.array_equal(answer, allowed) for allowed in answers[kind])
                report.endings[f"{kind}: {'right' if right else 'wrong'}"] += 1
                if not right:
                    report.failures.append(f"{name or 'folder'}: a wrong answer")
            exchange.get()
    return report


def run(bundle: str, files: int, folders: int, backend: str) -> Report:
    """Run `swap`. `backend` is a backend of the Engine, or "sdk"."""
    if backend == "sdk" and c_engine.sdk() is None:
        print("this installation has no C++ SDK")
        return Report()
    return swap(Path(bundle), files, folders, sdk_load(Path(bundle)) if backend == "sdk" else engine_load(backend))


if __name__ == "__main__":
    run_program(run, "bundle", files=600, folders=400, backend="onnxruntime")
