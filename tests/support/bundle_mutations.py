"""Reads mutated bundles with the Python reader and the C++ SDK's reader, in a process that may crash or hang.

    python tests/support/bundle_mutations.py --count 4000

The program prints one line for each wrong result and then a summary. If a result was wrong, the exit code is 1. A reader
must either refuse a mutated bundle with a message or return the same logits as for the good bundle. If the hashes were
updated to match the mutation, the bundle counts as a different one. Its logits may then differ from those of the good
bundle, but both readers must still agree.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random

import c_engine
import numpy as np
from hostile_runs import Report, run_program
from mutated_bundles import GRAPHS, mutate

from vmoe_runtime import Engine, VmoeError

CHECKPOINT = Path(__file__).parents[1] / "data" / "golden" / "g1"
PRECISIONS = ("fp32", "bf16", "int8")
MEMORY = 8 << 30
SECONDS = 60.0
"""Limit for one case; the first one also waits until the process has loaded the good bundles."""
FAILED, _REFUSED, _SAME, _DIFFERENT = "FAILED", "refused", "same answers", "another model's answers"


@dataclass
class _Worker:
    """The data that the worker process keeps between cases. This process may crash or hang.

    The data are the images for each bundle, and the right outputs of each bundle and graph.
    """

    images: dict[Path, np.ndarray]
    good: dict[tuple[Path, str], np.ndarray]


_worker = _Worker({}, {})


def run(count: int, seed: int) -> Report:
    """Run `count` cases."""
    from vmoe_export import export_bundle

    context, report = multiprocessing.get_context("spawn"), Report()
    with tempfile.TemporaryDirectory(prefix="bundle-mutations-") as folder:
        bases = [Path(folder) / f"{precision}.vmoe" for precision in PRECISIONS]
        for precision, base in zip(PRECISIONS, bases, strict=True):
            export_bundle(CHECKPOINT, base, capacity=[0.5], k=[1], precision=precision, validate=False)
        pool = context.Pool(1, _prepare, (bases,))
        for index in range(count):
            try:
                verdict, words = pool.apply_async(_run_case, (seed, index, Path(folder))).get(SECONDS)
            except multiprocessing.TimeoutError:  # also raised if the worker process has ended
                verdict, words = f"{FAILED}: it crashed or hung", ""
                pool.terminate()
                pool = context.Pool(1, _prepare, (bases,))
            report.endings[verdict] += 1
            if verdict.startswith(FAILED):
                report.failures.append(f"case {index}: {verdict}: {words}")
        pool.terminate()
    return report


def _prepare(bases: list[Path]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    _worker.images = {base: _images(base) for base in bases}
    _worker.good = {(base, graph): _python(base, graph, _worker.images[base]) for base in bases for graph in GRAPHS}


def _run_case(seed: int, index: int, scratch: Path) -> tuple[str, str]:
    rng = Random(f"{seed} {index}")
    base, bundle = rng.choice(list(_worker.images)), scratch / f"{index}.vmoe"
    mutation = mutate(base, bundle, rng)
    try:
        good = _worker.good[base, mutation.graph]
        verdict = _verdict(bundle, mutation.graph, _worker.images[base], good, mutation.may_differ)
    finally:
        shutil.rmtree(bundle)
    return verdict, f"{base.name}, {mutation.words}"


def _verdict(bundle: Path, graph: str, images: np.ndarray, good: np.ndarray, may_differ: bool) -> str:
    found: list[np.ndarray | None] = []
    sentences = []
    both = graph == GRAPHS[0] and c_engine.sdk() is not None
    for reader in (_python, _c) if both else (_python,):
        try:
            found.append(reader(bundle, graph, images, good.shape[1]))
        except (VmoeError, c_engine.RefusedError) as error:
            found.append(None)
            sentences.append(str(error))
        except Exception as error:
            return f"{FAILED}: {type(error).__name__} from {reader.__name__}: {str(error)[:200]}"
    if any("\n" in sentence or not sentence.strip() or len(sentence) > 1000 for sentence in sentences):
        return f"{FAILED}: not one sentence: {sentences!r:.300}"
    if both and not _alike(found[0], found[1]):
        return f"{FAILED}: the readers differ: {sentences or 'in their answers'}"
    if found[0] is None:
        return _REFUSED
    if _alike(found[0], good):
        return _SAME
    return _DIFFERENT if may_differ else f"{FAILED}: wrong answers in silence"


def _alike(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=True)


def _python(bundle: Path, graph: str, images: np.ndarray, outputs: int = 0) -> np.ndarray:
    backend = "onnxruntime" if graph == GRAPHS[0] else "openvino"
    with Engine.load(bundle, backend=backend, threads=1) as engine:
        return engine(images)


def _c(bundle: Path, graph: str, images: np.ndarray, outputs: int) -> np.ndarray:
    return c_engine.answer(bundle, images, outputs)


def _images(base: Path) -> np.ndarray:
    with Engine.load(base, threads=1) as engine:
        spec = engine.manifest.input
        shape = (engine.manifest.batch_multiple, spec.height, spec.width, spec.channels)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


if __name__ == "__main__":
    run_program(run, count=4000, seed=0)
