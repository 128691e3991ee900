"""Mutated bundles through both readers, Python's and the C++ SDK's, in a process that may crash or hang.

    python tests/support/bundle_mutations.py --count 4000

prints one line for each case that must not be, a summary, and exits with 1 if there was one. What is allowed: a sentence
that refuses the bundle, or the answers of the good one. A bundle whose hashes were made right again is another bundle and
may answer what it likes, as long as both readers agree.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

import c_engine
import numpy as np
from mutated_bundles import GRAPHS, mutate
from watched_children import FAILED, Outcome, serve, watch

from vmoe_runtime import Engine, VmoeError

CHECKPOINT = Path(__file__).parents[1] / "data" / "golden" / "g1"
PRECISIONS = ("fp32", "bf16", "int8")
MEMORY = 8 << 30
_REFUSED, _SAME, _DIFFERENT = "refused", "same answers", "another model's answers"


def run(count: int, seed: int) -> Outcome:
    """Runs that many cases."""
    from vmoe_export import export_bundle

    with tempfile.TemporaryDirectory(prefix="bundle-mutations-") as folder:
        bases = [Path(folder) / f"{precision}.vmoe" for precision in PRECISIONS]
        for precision, base in zip(PRECISIONS, bases, strict=True):
            export_bundle(CHECKPOINT, base, capacity=[0.5], k=[1], precision=precision, validate=False)
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        command = [sys.executable, __file__, "--seed", str(seed), "--serve", str(scratch), *map(str, bases)]
        return watch(command, range(count))


def _serve(seed: int, scratch: Path, *bases: Path) -> None:
    images = {base: _images(base) for base in bases}
    good = {(base, graph): _python(base, graph, images[base]) for base in bases for graph in GRAPHS}
    warnings.simplefilter("ignore")

    def run_case(index: int) -> tuple[str, str]:
        rng = Random(f"{seed} {index}")
        base, bundle = rng.choice(bases), scratch / f"{index}.vmoe"
        mutation = mutate(base, bundle, rng)
        try:
            verdict = _verdict(bundle, mutation.graph, images[base], good[base, mutation.graph], mutation.may_differ)
        finally:
            shutil.rmtree(bundle)
        return verdict, f"{base.name}, {mutation.words}"

    serve(run_case, MEMORY)


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


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", nargs="+", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.seed, *given.serve)
        return 0
    outcome = run(given.count, given.seed)
    print(*outcome.failures, outcome, sep="\n")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
