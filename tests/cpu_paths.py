"""Runs models on the op library in another process: on a chosen CPU path, on another ONNX Runtime, past what crashes.

Run as a program it is that process, and needs nothing but numpy and onnxruntime.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Outputs = list[np.ndarray]

_NO_PATH = "neither"


@dataclass(frozen=True)
class Call:
    """One run of a model: an ONNX file or its bytes, and arrays by input name."""

    model: Path | bytes
    feeds: Mapping[str, np.ndarray]
    outputs: Sequence[str] | None = None


def supported_paths(library: Path | None = None) -> tuple[str, ...]:
    """The CPU paths that a library, or the installed one, finds on this machine, the best first.

    The first is used unless VMOE_CPU_PATH names another.
    """
    return _supported(library or _library())


@functools.cache
def _supported(library: Path) -> tuple[str, ...]:
    return tuple(refusal(library, _NO_PATH).rpartition(" has ")[2].strip().split(", "))


def refusal(library: Path, path: str | None = None, packages: Path | None = None) -> str:
    """What ONNX Runtime says when it can't register a library; empty if it can.

    Raises:
        RuntimeError: the process crashed.
    """
    return _python(["register", str(library)], path, packages)


def run_calls(
    calls: Sequence[Call],
    path: str | None = None,
    packages: Path | None = None,
    *,
    threads: int = 2,
    library: Path | None = None,
) -> list[Outputs | str]:
    """What each call gave, or the message of its error, in order; all calls of a model share a session.

    Args:
        calls: what to run.
        path: a CPU path for VMOE_CPU_PATH, or None for the library's own choice.
        packages: a folder with another onnxruntime, or None for this environment's.
        threads: intra-op threads.
        library: the op library, or None for the installed one.

    Raises:
        RuntimeError: the process crashed; says in which call.
    """
    with tempfile.TemporaryDirectory(prefix="vmoe-calls-") as name:
        folder = Path(name)
        models: list[str] = []
        places: dict[Path | bytes, int] = {}
        for number, call in enumerate(calls):
            if call.model not in places:
                places[call.model] = len(models)
                if isinstance(call.model, bytes):
                    (folder / f"{len(models)}.onnx").write_bytes(call.model)
                models.append(f"{len(models)}.onnx" if isinstance(call.model, bytes) else str(call.model))
            np.savez(folder / f"{number}.feeds.npz", **call.feeds)
        plan = {
            "library": str(library or _library()),
            "threads": threads,
            "models": models,
            "calls": [(places[call.model], list(call.outputs) if call.outputs else None) for call in calls],
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        try:
            _python(["run", str(folder)], path, packages)
        except RuntimeError as error:
            done = sum((folder / f"{number}.json").exists() for number in range(len(calls)))
            raise RuntimeError(f"call {done} of {len(calls)}: {error}") from None
        return [_result(folder, number) for number in range(len(calls))]


def outputs_of(results: Sequence[Outputs | str]) -> list[Outputs]:
    """The same, where no call may fail."""
    failed = [result for result in results if isinstance(result, str)]
    if failed:
        raise AssertionError(f"{len(failed)} of {len(results)} calls failed: {failed[0]}")
    return [result for result in results if not isinstance(result, str)]


def _result(folder: Path, number: int) -> Outputs | str:
    answer = json.loads((folder / f"{number}.json").read_text())
    if "error" in answer:
        return str(answer["error"])
    with np.load(folder / f"{number}.outputs.npz") as stored:
        return [stored[f"arr_{i}"] for i in range(answer["outputs"])]


def _library() -> Path:
    from vmoe_runtime import library_path

    return Path(library_path())


def _python(arguments: list[str], path: str | None, packages: Path | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("VMOE_CPU_PATH", "PYTHONPATH")}
    if path is not None:
        environment["VMOE_CPU_PATH"] = path
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _register_in_this_process(library: str) -> None:
    import onnxruntime

    try:
        onnxruntime.SessionOptions().register_custom_ops_library(library)
    except Exception as error:
        print(error)


def _run_in_this_process(folder: Path) -> None:
    import onnxruntime

    plan = json.loads((folder / "plan.json").read_text())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = plan["threads"]
    options.register_custom_ops_library(plan["library"])

    @functools.lru_cache(maxsize=4)
    def session(model: int) -> onnxruntime.InferenceSession:
        file = folder / plan["models"][model]
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    for number, (model, outputs) in enumerate(plan["calls"]):
        with np.load(folder / f"{number}.feeds.npz") as stored:
            feeds = dict(stored)
        try:
            results = session(model).run(outputs, feeds)
        except Exception as error:
            answer: dict[str, object] = {"error": str(error)}
        else:
            np.savez(folder / f"{number}.outputs.npz", *results)
            answer = {"outputs": len(results)}
        (folder / f"{number}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    if sys.argv[1] == "register":
        _register_in_this_process(sys.argv[2])
    else:
        _run_in_this_process(Path(sys.argv[2]))
