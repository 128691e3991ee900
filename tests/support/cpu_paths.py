"""Runs models with the op library in another process.

The other process can use another CPU path or another ONNX Runtime, and may crash. It runs this file as a program, and needs
only numpy and onnxruntime.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Outputs = list[np.ndarray]

_NO_PATH = "neither"
_CALLS, _RESULTS = "calls.pickle", "results.pickle"


@dataclass(frozen=True)
class Call:
    """A call of a model.

    The model is the path of an ONNX file or the content of an ONNX file as bytes. `feeds` maps input names to arrays.
    `outputs` lists the outputs to compute, or is None for all outputs.
    """

    model: Path | bytes
    feeds: Mapping[str, np.ndarray]
    outputs: Sequence[str] | None = None


def supported_paths(library: Path | None = None) -> tuple[str, ...]:
    """Return the CPU paths that an op library finds on this machine, the best path first.

    By default, `library` is the installed op library. The library uses the first path unless VMOE_CPU_PATH specifies another
    one.
    """
    return _supported(library or _library())


@functools.cache
def _supported(library: Path) -> tuple[str, ...]:
    return tuple(refusal(library, _NO_PATH).rpartition(" has ")[2].strip().split(", "))


def refusal(library: Path, path: str | None = None, packages: Path | None = None) -> str:
    """Return the error message if ONNX Runtime refuses to register an op library, and otherwise an empty string.

    Raises:
        RuntimeError: the process crashed.
    """
    return _python(["register", str(library)], path, packages)


def need_op_library() -> None:
    """If this installation has no op library, skip the test module that is being imported."""
    import pytest

    from vmoe_runtime.op_library import find_library

    if find_library() is None:
        pytest.skip("this installation has no op library", allow_module_level=True)


def run_calls(
    calls: Sequence[Call],
    path: str | None = None,
    packages: Path | None = None,
    *,
    threads: int = 2,
    library: Path | None = None,
) -> list[Outputs | str]:
    """Return the outputs or the error message of each call, in the order of `calls`.

    All calls of a model share an ONNX Runtime session.

    Args:
        calls: the calls to run.
        path: the value of VMOE_CPU_PATH, or None to let the op library choose the CPU path.
        packages: a folder with another onnxruntime, or None to use this environment's onnxruntime.
        threads: intra-op threads.
        library: the op library, or None to use the installed one.

    Raises:
        RuntimeError: the process crashed; the message gives the number of the call.
    """
    with tempfile.TemporaryDirectory(prefix="vmoe-calls-") as name:
        folder = Path(name)
        models: list[str] = []
        places: dict[Path | bytes, int] = {}
        with (folder / _CALLS).open("wb") as stream:
            for call in calls:
                if call.model not in places:
                    places[call.model] = len(models)
                    if isinstance(call.model, bytes):
                        (folder / f"{len(models)}.onnx").write_bytes(call.model)
                    models.append(f"{len(models)}.onnx" if isinstance(call.model, bytes) else str(call.model))
                outputs = list(call.outputs) if call.outputs else None
                pickle.dump((places[call.model], outputs, dict(call.feeds)), stream)
        plan = {"library": str(library or _library()), "threads": threads, "models": models}
        (folder / "plan.json").write_text(json.dumps(plan))
        (folder / _RESULTS).touch()
        try:
            _runner(path, packages).run(folder)
        except RuntimeError as error:
            _runner.cache_clear()
            done = len(list(_unpickled(folder / _RESULTS)))
            raise RuntimeError(f"call {done} of {len(calls)}: {error}") from None
        return list(_unpickled(folder / _RESULTS))


def outputs_of(results: Sequence[Outputs | str]) -> list[Outputs]:
    """Return the results from `run_calls`. If one of the results is an error message, fail."""
    failed = [result for result in results if isinstance(result, str)]
    if failed:
        raise AssertionError(f"{len(failed)} of {len(results)} calls failed: {failed[0]}")
    return [result for result in results if not isinstance(result, str)]


def _unpickled(path: Path) -> Iterator[Any]:
    """Yield the pickled objects in a file one after another. Stop at the end or at an incomplete object."""
    with path.open("rb") as stream, contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(stream)


def _library() -> Path:
    from vmoe_runtime import library_path

    return Path(library_path())


def _environment(path: str | None, packages: Path | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("VMOE_CPU_PATH", "PYTHONPATH")}
    if path is not None:
        environment["VMOE_CPU_PATH"] = path
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    return environment


def _python(arguments: list[str], path: str | None, packages: Path | None) -> str:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=_environment(path, packages), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


class _Runner:
    """A process that runs calls. It gets one folder of calls at a time, and ends when this object is deleted."""

    def __init__(self, path: str | None, packages: Path | None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (it is closed with this object)
        self._process = subprocess.Popen(
            [sys.executable, __file__, "run"],
            env=_environment(path, packages), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        weakref.finalize(self, self._process.kill)

    def run(self, folder: Path) -> None:
        """Run the calls in a folder.

        Raises:
            RuntimeError: the process crashed.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            code = self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"exit status {code}: {self._errors.read().decode().strip()[-2000:]}")


@functools.lru_cache(maxsize=8)
def _runner(path: str | None, packages: Path | None) -> _Runner:
    """Return the process for this CPU path and onnxruntime.

    The process is reused, because starting one takes longer than most calls.
    """
    return _Runner(path, packages)


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
    # By default, threads spin while they wait for work. Spinning would take twenty times as long as most calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.register_custom_ops_library(plan["library"])

    @functools.lru_cache(maxsize=4)
    def session(model: int) -> onnxruntime.InferenceSession:
        file = folder / plan["models"][model]
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    with (folder / _RESULTS).open("wb") as stream:
        for model, outputs, feeds in _unpickled(folder / _CALLS):
            try:
                result = session(model).run(outputs, feeds)
            except Exception as error:
                result = str(error)
            pickle.dump(result, stream)
            stream.flush()  # the next call may crash the process


if __name__ == "__main__":
    if sys.argv[1] == "register":
        _register_in_this_process(sys.argv[2])
    else:
        for line in sys.stdin:
            _run_in_this_process(Path(line.removesuffix("\n")))
            print("done", flush=True)
