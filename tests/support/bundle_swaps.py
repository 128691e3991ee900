"""Swaps files of a bundle, or whole bundles, under a load: what comes out is the answer of one whole bundle, or a sentence.

    python tests/support/bundle_swaps.py BUNDLE --files 600 --folders 400 [--backend openvino]

prints what came out, as JSON, and exits with 1 if any answer was a wrong one. `--backend sdk` is the C++ SDK.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import c_engine
import numpy as np
import onnx
from damaged_files import copied_bundle, edited_graph

from vmoe_runtime import Engine, VmoeError
from vmoe_runtime.bundle.reader import Bundle

SWAPPER = Path(__file__).parent / "path_swapper.py"
WEIGHTS = "weights.safetensors"
Load = Callable[[Path], np.ndarray]  # logits of the same images, whichever bundle it is


@dataclass
class Tally:
    """How many loads ended in which way; `sentences` are those of the refusals."""

    right: int = 0
    refused: int = 0
    wrong: int = 0
    sentences: set[str] = field(default_factory=set)

    def add(self, load: Load, bundle: Path, allowed: list[np.ndarray]) -> None:
        try:
            answer = load(bundle)
        except VmoeError as error:
            self.refused += 1
            self.sentences.add(str(error))
            return
        if any(np.array_equal(answer, right) for right in allowed):
            self.right += 1
        else:
            self.wrong += 1


class Swapper:
    """Another process that exchanges two paths of one file system, and exchanges them back."""

    def __init__(self, one: Path, other: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, SWAPPER, one, other], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()  # it has started

    def start(self, delay: float, hold: float) -> None:
        """Begins an exchange in `delay` seconds, for `hold` seconds."""
        assert self._process.stdin
        self._process.stdin.write(f"{delay} {hold}\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        """Until all is as it was."""
        self._answer()

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == "done\n"


def other_bundle(bundle: Path, target: Path) -> Path:
    """A valid bundle that answers otherwise, by its graphs and by its weights: a mixture of both gives a third answer."""
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

    graphs = {name: edited_graph(bundle, double, name) for name in ("model.onnx", "model.inlined.onnx")}
    return copied_bundle(bundle, target, files={WEIGHTS: bytes(weights), **graphs})


def engine_load(backend: str, **options: bool) -> Load:
    """Loads a bundle with the Engine and runs it on one image."""

    def load(bundle: Path) -> np.ndarray:
        with Engine.load(bundle, backend=backend, threads=1, **options) as engine:
            return engine(image(bundle))

    return load


def sdk_load(bundle: Path) -> Load:
    """Loads a bundle with the C++ SDK and runs it on one image; `bundle` is one of those that will be loaded."""
    given, outputs = image(bundle), Bundle.open(bundle, verify=False).manifest.outputs

    def load(bundle: Path) -> np.ndarray:
        try:
            return c_engine.answer(bundle, given, outputs)
        except c_engine.RefusedError as error:
            raise VmoeError(str(error)) from None

    return load


def image(bundle: Path) -> np.ndarray:
    """The image that every load is asked about."""
    spec = Bundle.open(bundle, verify=False).manifest.input
    return np.linspace(-1, 1, spec.height * spec.width * spec.channels, dtype=np.float32).reshape(
        1, spec.height, spec.width, spec.channels
    )


def swap_files(bundle: Path, count: int, load: Load, seed: int = 0) -> Tally:
    """Loads a bundle `count` times while its weights, or a graph, are exchanged for those of another one."""
    rng, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory(dir=bundle.parent) as scratch:
        own = Path(shutil.copytree(bundle, Path(scratch, "own.vmoe")))
        other = other_bundle(bundle, Path(scratch, "other.vmoe"))
        right, seconds = [load(own)], _seconds(load, own)
        swappers = [Swapper(own / name, other / name) for name in (WEIGHTS, "model.onnx", "model.inlined.onnx")]
        for turn in range(count):
            # The weights are what a runtime opens by itself.
            swapper = swappers[0 if turn % 3 else 1 + turn // 3 % 2]
            _swap_under(swapper, seconds, rng, tally, load, own, right)
        for swapper in swappers:
            swapper.close()
    return tally


def swap_folders(bundle: Path, count: int, load: Load, seed: int = 0) -> Tally:
    """Loads a bundle `count` times while its folder is exchanged for that of another whole bundle."""
    rng, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory(dir=bundle.parent) as scratch:
        own = Path(shutil.copytree(bundle, Path(scratch, "own.vmoe")))
        other = other_bundle(bundle, Path(scratch, "other.vmoe"))
        right, seconds = [load(own), load(other)], _seconds(load, own)
        swapper = Swapper(own, other)
        for _ in range(count):
            _swap_under(swapper, seconds, rng, tally, load, own, right)
        swapper.close()
    return tally


def _swap_under(
    swapper: Swapper, seconds: float, rng: random.Random, tally: Tally, load: Load, bundle: Path, right: list[np.ndarray]
) -> None:
    # Half of the exchanges end within the load, the others after it or not at all as the load sees it.
    swapper.start(rng.uniform(0, seconds), rng.choice((0.1, 1)) * rng.uniform(0, seconds))
    tally.add(load, bundle, right)
    swapper.wait()


def _seconds(load: Load, bundle: Path) -> float:
    start = time.monotonic()
    load(bundle)
    return time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--folders", type=int, default=400)
    parser.add_argument("--backend", default="onnxruntime")
    arguments = parser.parse_args()
    if arguments.backend == "sdk" and c_engine.sdk() is None:
        print("this installation has no C++ SDK")
        return 0
    load = sdk_load(arguments.bundle) if arguments.backend == "sdk" else engine_load(arguments.backend)
    tallies = {
        "files": swap_files(arguments.bundle, arguments.files, load),
        "folders": swap_folders(arguments.bundle, arguments.folders, load),
    }
    print(json.dumps({name: asdict(tally) for name, tally in tallies.items()}, indent=1, default=sorted))
    return 1 if any(tally.wrong for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
