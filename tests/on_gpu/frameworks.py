"""Whole models on the GPU through the engine: ONNX Runtime's CUDA and TensorRT providers, and TensorRT itself.

Each runs where what it needs is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from command_line import say

from on_gpu.check import Check
from vmoe_measure.comparison import Run, differences
from vmoe_measure.timing import summarize
from vmoe_runtime import Engine
from vmoe_runtime.backends.availability import availability
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import UnavailableError, VmoeError

Array = np.ndarray[Any, np.dtype[Any]]

CUDA, ORT_TENSORRT, TENSORRT = "ONNX Runtime, CUDA", "ONNX Runtime, TensorRT", "TensorRT"
_BACKENDS = {CUDA: "cuda", ORT_TENSORRT: "ort-tensorrt", TENSORRT: "tensorrt"}
BATCHES = (1, 32)
_WARM_UP = 3
_MIN_SAME_ROUTING = {"fp32": 0.999, "fp16": 0.97, "bf16": 0.9}  # of the pairs: what is all but tied may fall otherwise
_TOLERANCE = {"fp32": 2e-3, "fp16": 5e-2, "bf16": 0.3}  # of logits, where an image's pairs are all kept alike


class ModelBundle(NamedTuple):
    """A bundle to run, its name such as `b16 fp16`, its precision for TensorRT, and whether it is worth timing."""

    path: Path
    name: str
    precision: str
    timed: bool


def run(report: Any, folder: Path, model: str, repeats: int) -> None:
    """Reports on a framework, bundle and profile after the other.

    Args:
        report: where results go.
        folder: where bundles and engines go.
        model: a name in `cpu.models.MODELS`, such as "b16".
        repeats: calls that are timed.
    """
    try:
        bundles = prepare_bundles(folder, model)
    except ImportError as error:
        report.skip("frameworks", f"this Python lacks {error.name}, which an export needs; pip install '.[export]'")
        return
    except VmoeError as error:
        report.check(Check("export", 1, (str(error),)))
        return
    # Engines are built anew, and don't end up among the user's.
    with patch.dict(os.environ, VMOE_CACHE_DIR=str(folder / "engines")):
        for name in _BACKENDS:
            run_framework(report, name, bundles, repeats)


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
            path = folder / f"{name}-{precision}-gpu.vmoe"
            say(f"exporting {path.stem}")
            options: dict[str, Any] = {"capacity": [0.3, 1.05], "k": [1, 2] if name == "mnist" else [1]}
            export_bundle(checkpoint, path, validate=False, force=True, tensorrt=True, precision=precision, **options)
            bundles.append(ModelBundle(path, f"{name} {precision}", precision, name == model))
    return bundles


def run_framework(report: Any, name: str, bundles: Sequence[ModelBundle], repeats: int) -> None:
    """One framework on every bundle and profile, unless it can't run here after all."""
    for bundle in (b for b in bundles if name != CUDA or b.precision == "fp32"):
        opened = Bundle.open(bundle.path)
        for profile, setting in opened.manifest.profiles.items():
            what = f"{name}, {bundle.name}, {profile}"
            say(what)
            try:
                lacking = availability(_BACKENDS[name], opened, setting).error
                if isinstance(lacking, UnavailableError):
                    raise lacking
                if name == TENSORRT:
                    report.check(build_engine(bundle, profile, what))
                with Engine.load(bundle.path, profile, _BACKENDS[name]) as engine:
                    report.check(compare(what, engine, bundle, profile))
                    if bundle.timed:
                        report.write(*throughput(engine, repeats))
            except UnavailableError as error:
                report.skip(name, str(error))
                return
            except VmoeError as error:
                report.check(Check(what, 1, (str(error),)))


def noise(engine: Engine, count: int) -> Array:
    """Images of uniform noise, float32[N,H,W,C] in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (count, *engine.manifest.input.size)).astype(np.float32)


def compare(name: str, engine: Engine, bundle: ModelBundle, profile: str) -> Check:
    """The same images on the CPU: pairs routed alike but for a few, and the same logits where an image's all are."""
    images = noise(engine, max(BATCHES))
    with Engine.load(bundle.path, profile, "onnxruntime") as cpu:
        found = differences(_run_of(cpu, images), _run_of(engine, images))
    difference = float(found.largest[found.alike].max(initial=0))
    tolerance, least = _TOLERANCE[bundle.precision], _MIN_SAME_ROUTING[bundle.precision]
    failures = []
    if found.agreement < least:
        failures.append(f"only {found.agreement:.2%} of the pairs are routed as on the CPU, not {least:.1%}")
    if not difference <= tolerance:
        failures.append(f"logits differ by {difference:.2e}, more than {tolerance:g}")
    same = f"{found.agreement:.2%} of the pairs alike; logits of {found.alike.sum()} images within {difference:.1e}"
    return Check(f"{name}: {same}", len(images), failures)


def _run_of(engine: Engine, images: Array) -> Run:
    """Logits, and which expert each pair was kept by, -1 where dropped; its slot is no matter."""
    logits, routes = engine.logits_and_routing(images)
    return Run(logits, [np.where(r.kept, r.expert, -1).reshape(len(images), -1) for r in routes.values()])


def throughput(engine: Engine, repeats: int) -> list[str]:
    """Images per second of calls with images in the CPU's memory, copies to and from the GPU included: medians."""
    lines = []
    for batch in BATCHES:
        images, taken = noise(engine, batch), []
        for _ in range(_WARM_UP + repeats):
            start = time.perf_counter()
            engine(images)
            taken.append(time.perf_counter() - start)
        speed = summarize(taken[_WARM_UP:], batch)
        shown = f"{speed.p50_ms:.3f} ms a call, {speed.images_per_second:.0f} images/s"
        lines.append(f"- {engine.backend_description}, batch {batch}: {shown}")
    return lines


def build_engine(bundle: ModelBundle, profile: str, name: str) -> Check:
    """Runs `vmoe build`, which compares what it built with the bundle."""
    command = [sys.executable, "-m", "vmoe_tools", "build", str(bundle.path), "--profile", profile]
    command += ["--batch-size", str(max(BATCHES))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    failures = () if done.returncode == 0 else (f"exit code {done.returncode}: " + " | ".join(lines[-3:]),)
    return Check(f"vmoe build: {name}", 1, failures)
