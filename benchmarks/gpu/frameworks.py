"""Whole models on the card through the engine: ONNX Runtime's CUDA and TensorRT providers, and TensorRT itself.

Each runs where what it needs is installed, which is found out before anything is exported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command_line import say

from gpu.report import Check
from vmoe_runtime import Engine
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import UnavailableError, VmoeError

CUDA, ORT_TENSORRT, TENSORRT = "ONNX Runtime, CUDA", "ONNX Runtime, TensorRT", "TensorRT"
_BACKENDS = {CUDA: "cuda", ORT_TENSORRT: "ort-tensorrt", TENSORRT: "tensorrt"}
_PROVIDERS = {CUDA: "CUDAExecutionProvider", ORT_TENSORRT: "TensorrtExecutionProvider"}
BATCHES = (1, 32)
_MIN_SAME_ROUTING = {"fp32": 0.999, "fp16": 0.97, "bf16": 0.9}  # of the pairs: what is all but tied may fall otherwise
_TOLERANCE = {"fp32": 2e-3, "fp16": 5e-2, "bf16": 0.3}  # of logits, where an image's pairs are all kept alike

# Whether an engine loads in a process that has not loaded the plugin: exit code 0 if it does not.
_LOAD_WITHOUT_PLUGIN = """
import sys
import tensorrt
runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.INTERNAL_ERROR))
with open(sys.argv[1], "rb") as file:
    engine = runtime.deserialize_cuda_engine(file.read())
sys.exit(0 if engine is None else 1)
"""


@dataclass(frozen=True)
class ModelBundle:
    """A bundle to run, its precision for TensorRT, and whether it is worth timing."""

    path: Path
    precision: str
    timed: bool

    @property
    def name(self) -> str:
        """Such as `b16 fp16`."""
        return f"{self.path.stem.partition('-')[0]} {self.precision}"


def missing() -> dict[str, str]:
    """The frameworks that this Python lacks, each with a sentence that says what is missing."""
    found = {} if importlib.util.find_spec("tensorrt") else {TENSORRT: "tensorrt isn't installed"}
    try:
        import onnxruntime
    except ImportError:
        return found | dict.fromkeys(_PROVIDERS, "onnxruntime isn't installed")
    there = onnxruntime.get_available_providers()
    return found | {
        name: f"the installed ONNX Runtime {onnxruntime.__version__} has no {provider}; onnxruntime-gpu may have it"
        for name, provider in _PROVIDERS.items()
        if provider not in there
    }


def run(report: dict[str, Any], folder: Path, model: str, repeats: int, save: Callable[[], object]) -> None:
    """Adds `checks`, `points` and what was `skipped` to a report, a bundle and profile after the other.

    Args:
        report: what it is added to.
        folder: where bundles and engines go.
        model: a name in `cpu.models.MODELS`, such as "b16".
        repeats: calls that are timed.
        save: called after each of them.
    """
    report["skipped"].update(missing())
    names = [name for name in _BACKENDS if name not in report["skipped"]]
    if not names:
        return
    try:
        bundles = prepare_bundles(folder, model)
    except ImportError as error:
        report["skipped"]["frameworks"] = f"this Python lacks {error.name}, which an export needs; pip install '.[export]'"
        return
    except VmoeError as error:
        report["checks"].append(Check("export", 1, (str(error),)).as_json())
        return
    for name in names:
        run_framework(report, name, bundles, folder / "engines", repeats, save)


def prepare_bundles(folder: Path, model: str) -> list[ModelBundle]:
    """Exports a trained MNIST model, and a random one in every precision, with graphs for TensorRT.

    Raises:
        ImportError: the exporter isn't installed.
        VmoeError: an export failed.
    """
    from cpu.models import prepare

    from vmoe_export import export_bundle

    folder.mkdir(parents=True, exist_ok=True)
    mnist = Path(__file__).parents[2] / "samples" / "mnist" / "vmoe_mnist"
    random, bundles = prepare(model, folder).checkpoint("sparse"), []
    for name, checkpoint, precisions in (("mnist", mnist, ("fp32",)), (model, random, ("fp32", "fp16", "bf16"))):
        for precision in precisions:
            bundle = ModelBundle(folder / f"{name}-{precision}-gpu.vmoe", precision, timed=name == model)
            say(f"exporting {bundle.name}")
            options: dict[str, Any] = {"capacity": [0.3, 1.05], "k": [1, 2] if name == "mnist" else [1]}
            export_bundle(checkpoint, bundle.path, validate=False, force=True, tensorrt=True, precision=precision, **options)
            bundles.append(bundle)
    return bundles


def run_framework(
    report: dict[str, Any],
    name: str,
    bundles: Sequence[ModelBundle],
    engines: Path,
    repeats: int,
    save: Callable[[], object],
) -> None:
    """One framework on every bundle and profile; engines are built anew, and don't end up among the user's."""
    before, backend = os.environ.get("VMOE_CACHE_DIR"), _BACKENDS[name]
    os.environ["VMOE_CACHE_DIR"] = str(engines)
    try:
        for bundle in bundles:
            if name == CUDA and bundle.precision != "fp32":
                continue
            for profile in Bundle.open(bundle.path).manifest.profiles:
                what = f"{name}, {bundle.name}, {profile}"
                say(what)
                try:
                    if name == TENSORRT:
                        _require_backend(bundle, profile, backend)
                        report["checks"].append(build_engine(bundle, profile, what).as_json())
                    with Engine.load(bundle.path, profile, backend) as engine:
                        report["checks"].append(compare(what, engine, bundle, profile).as_json())
                        report["points"] += throughput(what, engine, repeats) if bundle.timed else []
                except UnavailableError as error:
                    report["skipped"][name] = str(error)
                    return
                except VmoeError as error:
                    report["checks"].append(Check(what, 1, (str(error),)).as_json())
                save()
        if name == TENSORRT:
            report["checks"].append(_refuses_without_plugin(engines).as_json())
    finally:
        os.environ.pop("VMOE_CACHE_DIR")
        if before is not None:
            os.environ["VMOE_CACHE_DIR"] = before


def _require_backend(bundle: ModelBundle, profile: str, backend: str) -> None:
    """Raises UnavailableError where the backend can't run; that there is no engine yet is no matter."""
    try:
        Engine.load(bundle.path, profile, backend).close()
    except UnavailableError:
        raise
    except VmoeError:
        return


def noise(engine: Engine, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Images of uniform noise, float32[N,H,W,C] in [-1, 1]."""
    size = engine.manifest.input
    return np.random.default_rng(0).uniform(-1, 1, (count, size.height, size.width, size.channels)).astype(np.float32)


def compare(name: str, engine: Engine, bundle: ModelBundle, profile: str) -> Check:
    """The same images on the CPU: pairs routed alike but for a few, and the same logits where an image's all are."""
    images = noise(engine, max(BATCHES))
    with Engine.load(bundle.path, profile, "onnxruntime") as cpu:
        wanted, wanted_experts = cpu(images), _kept_experts(cpu, images)
    got, same = engine(images), _kept_experts(engine, images) == wanted_experts
    alike = same.all(axis=1)
    difference = float(np.abs(got - wanted)[alike].max(initial=0))
    tolerance, least = _TOLERANCE[bundle.precision], _MIN_SAME_ROUTING[bundle.precision]
    failures = []
    if same.mean() < least:
        failures.append(f"only {same.mean():.2%} of the pairs are routed as on the CPU, not {least:.1%}")
    if not difference <= tolerance:
        failures.append(f"logits differ by {difference:.2e}, more than {tolerance:g}")
    found = f"{same.mean():.2%} of the pairs alike; logits of {alike.sum()} images within {difference:.1e}"
    return Check(f"{name}: {found}", len(images), tuple(failures))


def _kept_experts(engine: Engine, images: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Which expert each pair of each layer was kept by, i64[N, pairs], -1 where dropped; its place there is no matter."""
    routes = engine.routing(images).values()
    return np.concatenate([np.where(r.kept, r.expert, -1).reshape(len(images), -1) for r in routes], axis=1)


def throughput(name: str, engine: Engine, repeats: int) -> list[dict[str, Any]]:
    """Images per second of calls with images in the CPU's memory, copies to and from the card included: medians."""
    points = []
    for batch in BATCHES:
        images, taken = noise(engine, batch), []
        for _ in range(3 + repeats):  # three to warm up
            start = time.perf_counter()
            engine(images)
            taken.append(time.perf_counter() - start)
        seconds = float(np.median(taken[3:]))
        title = f"{name} ({engine.backend_description})"
        points.append({"name": title, "batch": batch, "ms": seconds * 1e3, "images_per_second": batch / seconds})
    return points


def build_engine(bundle: ModelBundle, profile: str, name: str) -> Check:
    """Runs vmoe-build, which compares what it built with the bundle."""
    command = [sys.executable, "-m", "vmoe_build", str(bundle.path), "--profile", profile, "--max-batch", str(max(BATCHES))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    failures = () if done.returncode == 0 else (f"exit code {done.returncode}: " + " | ".join(lines[-3:]),)
    return Check(f"vmoe-build: {name}", 1, failures)


def _refuses_without_plugin(folder: Path) -> Check:
    """An engine that was built with the plugin must not load in a process that lacks it."""
    name = "TensorRT: an engine does not load without the plugin"
    engines = sorted((folder / "tensorrt").rglob("*.engine"))  # not ONNX Runtime's
    if not engines:
        return Check(name, 0, ("there is no engine to load",))
    command = [sys.executable, "-c", _LOAD_WITHOUT_PLUGIN, str(engines[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = () if done.returncode == 0 else tuple(done.stderr.strip().splitlines()[-1:] or ["it loaded"])
    return Check(name, 1, said)
