"""Whole models on the card through the engine: ONNX Runtime's CUDA and TensorRT providers, and TensorRT itself.

Each runs where what it needs is installed, which is found out before anything is exported.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu.report import Check
from gpu.timing import summarize
from vmoe_runtime import Engine
from vmoe_runtime.errors import UnavailableError, VmoeError
from vmoe_runtime.installation import find_native

CUDA, ORT_TENSORRT, TENSORRT = "ONNX Runtime, CUDA", "ONNX Runtime, TensorRT", "TensorRT"
_PROVIDERS = {CUDA: "CUDAExecutionProvider", ORT_TENSORRT: "TensorrtExecutionProvider"}
CUDA_LIBRARY = "libvmoe_onnxruntime_cuda.so"
BATCHES = (1, 32)
_MIN_SAME_ROUTING = {"fp32": 0.999, "fp16": 0.97, "bf16": 0.9}  # of the pairs: what is all but tied may fall otherwise
_TOLERANCE = {"fp32": 2e-3, "fp16": 5e-2, "bf16": 0.3}  # of logits, where an image's pairs are all kept alike
_SEED = 0
_LAST_LINES = 3

# Whether an engine loads in a process that has not loaded the plugin: exit code 0 if it does not.
_LOAD_WITHOUT_PLUGIN = """
import sys
import tensorrt
runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.INTERNAL_ERROR))
with open(sys.argv[1], "rb") as file:
    engine = runtime.deserialize_cuda_engine(file.read())
sys.exit(0 if engine is None else 1)
"""


@dataclass
class Part:
    """What became of one framework.

    Attributes:
        name: the framework.
        skipped: why it didn't run, in a sentence; None where it did.
        checks: what was checked.
        points: images per second, ready for JSON.
    """

    name: str
    skipped: str | None = None
    checks: list[Check] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "checks": [check.as_json() for check in self.checks]}


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


def prepare_bundles(folder: Path, model: str, say: Callable[[str], None]) -> list[ModelBundle]:
    """Exports a trained MNIST model, and a random one in every precision, with graphs for TensorRT.

    Args:
        folder: where the bundles go.
        model: a name in `cpu.models.MODELS`, such as "b16".
        say: takes a line on what is being done.

    Raises:
        ImportError: the exporter isn't installed.
        VmoeError: an export failed.
    """
    from cpu.models import prepare

    from vmoe_export import export_bundle

    folder.mkdir(parents=True, exist_ok=True)
    mnist = Path(__file__).parents[2] / "samples" / "mnist" / "vmoe_mnist"
    random = prepare(model, folder).checkpoint("sparse")
    bundles = []
    for name, checkpoint, precisions in (("mnist", mnist, ("fp32",)), (model, random, ("fp32", "fp16", "bf16"))):
        for precision in precisions:
            bundle = ModelBundle(folder / f"{name}-{precision}-gpu.vmoe", precision, timed=name == model)
            say(f"exporting {bundle.name}")
            options: dict[str, Any] = {"capacity": [0.3, 1.05], "k": [1, 2] if name == "mnist" else [1]}
            export_bundle(checkpoint, bundle.path, validate=False, force=True, tensorrt=True, precision=precision, **options)
            bundles.append(bundle)
    return bundles


def run_frameworks(
    bundles: Sequence[ModelBundle], folder: Path, repeats: int, names: Collection[str], say: Callable[[str], None]
) -> Iterator[Part]:
    """The frameworks of these names on every bundle, one after the other."""
    float32 = [bundle for bundle in bundles if bundle.precision == "fp32"]
    with _own_cache(folder / "engines"):
        if CUDA in names:
            yield _part(CUDA, "cuda", float32, repeats, say)
            yield _without_library(float32, find_native("lib", CUDA_LIBRARY), repeats, say)
        if ORT_TENSORRT in names:
            yield _part(ORT_TENSORRT, "ort-tensorrt", bundles, repeats, say)
        if TENSORRT in names:
            yield _part(TENSORRT, "tensorrt", bundles, repeats, say, before=build_engine, after=_refuses_without_plugin)


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Engines are built anew, and don't end up among the user's."""
    before = os.environ.get("VMOE_CACHE_DIR")
    os.environ["VMOE_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("VMOE_CACHE_DIR")
        if before is not None:
            os.environ["VMOE_CACHE_DIR"] = before


def _part(
    name: str,
    backend: str,
    bundles: Sequence[ModelBundle],
    repeats: int,
    say: Callable[[str], None],
    before: Callable[[ModelBundle, str], Check] | None = None,
    after: Callable[[], Check] | None = None,
) -> Part:
    part = Part(name)
    for bundle in bundles:
        for profile in _profiles(bundle.path):
            say(f"{name}: {bundle.name}, {profile}")
            what = f"{name}, {bundle.name}, {profile}"
            try:
                if before is not None:
                    _require_backend(bundle, profile, backend)
                    built = before(bundle, profile)
                    part.checks.append(built)
                    if built.failures:
                        continue
                with Engine.load(bundle.path, profile, backend) as engine:
                    part.checks.append(compare(what, engine, bundle, profile))
                    if bundle.timed:
                        part.points += throughput(name, engine.backend_description, engine, bundle, profile, repeats)
            except UnavailableError as error:
                part.skipped = str(error)
                return part
            except VmoeError as error:
                part.checks.append(Check(what, 1, (str(error),)))
    if after is not None:
        part.checks.append(after())
    return part


def _require_backend(bundle: ModelBundle, profile: str, backend: str) -> None:
    """Raises UnavailableError where the backend can't run; that there is no engine yet is no matter."""
    try:
        Engine.load(bundle.path, profile, backend).close()
    except UnavailableError:
        raise
    except VmoeError:
        return


def _profiles(bundle: Path) -> list[str]:
    from vmoe_runtime.bundle.reader import Bundle

    return list(Bundle.open(bundle).manifest.profiles)


def noise(engine: Engine, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Images of uniform noise, float32[N,H,W,C] in [-1, 1]."""
    size = engine.manifest.input
    shape = count, size.height, size.width, size.channels
    return np.random.default_rng(_SEED).uniform(-1, 1, shape).astype(np.float32)


def compare(name: str, engine: Engine, bundle: ModelBundle, profile: str) -> Check:
    """The same images on the CPU: pairs routed alike but for a few, and the same logits where an image's all are."""
    images = noise(engine, max(BATCHES))
    with Engine.load(bundle.path, profile, "onnxruntime") as cpu:
        wanted, wanted_experts = cpu(images), _kept_experts(cpu, images)
    got, experts = engine(images), _kept_experts(engine, images)
    same = experts == wanted_experts
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
    layers = [np.where(route.kept, route.expert, -1).reshape(len(images), -1) for route in routes]
    return np.concatenate(layers, axis=1)


def throughput(
    framework: str, description: str, engine: Engine, bundle: ModelBundle, profile: str, repeats: int
) -> list[dict[str, Any]]:
    """Images per second of calls with images in the CPU's memory, copies to and from the card included."""
    points = []
    for batch in BATCHES:
        seconds = _timed(functools.partial(engine, noise(engine, batch)), repeats)
        points.append(_point(framework, description, bundle.name, profile, batch, seconds))
    return points


def _timed(call: Callable[[], object], repeats: int) -> list[float]:
    for _ in range(3):
        call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def _point(
    framework: str, description: str, bundle: str, profile: str, batch: int, seconds: Sequence[float]
) -> dict[str, Any]:
    taken = summarize(seconds)
    return {
        "framework": framework,
        "description": description,
        "bundle": bundle,
        "profile": profile,
        "batch": batch,
        "time": asdict(taken),
        "images_per_second": batch / taken.median,
    }


def _without_library(bundles: Sequence[ModelBundle], library: Path | None, repeats: int, say: Callable[[str], None]) -> Part:
    """The same graph and provider with standard ops only, so that the op library's share can be seen."""
    part = Part("ONNX Runtime, CUDA, standard ops instead of the op library")
    if library is None:
        part.skipped = f"this installation has no {CUDA_LIBRARY}, so the part before it ran without already"
        return part
    import onnxruntime

    from vmoe_runtime.bundle.reader import Bundle

    for bundle in bundles:
        if not bundle.timed:
            continue
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(str(bundle.path / "model.onnx"), options, providers)
        except Exception as error:  # onnxruntime's own classes
            part.checks.append(Check(part.name, 1, (str(error).splitlines()[0],)))
            continue
        if session.get_providers()[0] != "CUDAExecutionProvider":
            part.skipped = "ONNX Runtime couldn't use its CUDA provider here"
            return part
        manifest = Bundle.open(bundle.path).manifest
        for name, profile in manifest.profiles.items():
            say(f"{part.name}: {bundle.name}, {name}")
            for batch in BATCHES:
                size = manifest.input
                shape = batch, size.height, size.width, size.channels
                images = np.random.default_rng(_SEED).uniform(-1, 1, shape).astype(np.float32)
                feeds = {"image": images, **profile.inputs()}

                def call(session: Any = session, feeds: dict[str, Any] = feeds, output: str = manifest.output) -> None:
                    session.run([output], feeds)

                seconds = _timed(call, repeats)
                part.points.append(_point(part.name, "standard ops", bundle.name, name, batch, seconds))
    return part


def build_engine(bundle: ModelBundle, profile: str) -> Check:
    """Runs vmoe-build, which compares what it built with the bundle."""
    command = [sys.executable, "-m", "vmoe_build", str(bundle.path), "--profile", profile, "--max-batch", str(max(BATCHES))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    failures = () if done.returncode == 0 else (f"exit code {done.returncode}: " + " | ".join(lines[-_LAST_LINES:]),)
    return Check(f"vmoe-build, {bundle.name}, {profile}", 1, failures)


def _refuses_without_plugin() -> Check:
    """An engine that was built with the plugin must not load in a process that lacks it."""
    name = "TensorRT: an engine does not load without the plugin"
    engines = sorted(Path(os.environ["VMOE_CACHE_DIR"], "tensorrt").rglob("*.engine"))  # not ONNX Runtime's
    if not engines:
        return Check(name, 0, ("there is no engine to load",))
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_WITHOUT_PLUGIN, str(engines[0])], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return Check(name, 1, ())
    said = done.stderr.strip().splitlines()[-1:] or ["it loaded"]
    return Check(name, 1, (said[0],))
