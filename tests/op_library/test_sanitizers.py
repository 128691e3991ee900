"""Run the native libraries under the sanitizers, with random op calls and with many threads on one engine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import cpu_paths
import pytest
from fuzz_models import write_models
from random_calls import Fuzzer
from sanitized_build import MEMORY, THREADS, sanitized
from sdk_build import onnxruntime_library, run

from vmoe_export import export_bundle
from vmoe_runtime.op_library import find_library

pytestmark = [pytest.mark.long, pytest.mark.slow]

AT_LENGTH = "VMOE_RANDOM_CALLS" in os.environ
CALLS = int(os.environ.get("VMOE_RANDOM_CALLS", "2500"))
CALLS_ON_OTHER_PATHS = max(CALLS // 5, 1000)
# Test the CPU paths of this machine. The emulated matrix unit is always one of them.
PATHS = cpu_paths.supported_paths() if find_library() else ()
HOOKS = {"log_threads": "150", "cancel_threads": "15" if AT_LENGTH else "8"}  # callbacks, and cancelled calls
THREAD_ROUNDS, BATCHER_ROUNDS = ("3", "8") if AT_LENGTH else ("1", "2")
TARGETS = {
    MEMORY: ("vmoe_onnxruntime", "op_calls"),
    THREADS: ("vmoe_onnxruntime", "vmoe_engine", "core_threads", "engine_threads", "session_threads", "sdk_batcher", *HOOKS),
}
# Two options keep the address sanitizer fast:
# - Stack frames are not copied. Exceptions would leak the copies, and searching for a free one would take nearly all the
#   time.
# - Only two stack frames are recorded per allocation, because each call of an op causes about a hundred allocations in
#   ONNX Runtime.
ASAN_OPTIONS = "detect_stack_use_after_return=0:malloc_context_size=2"
# ONNX Runtime is not instrumented, so the sanitizer does not watch its code. It watches this project's kernels, even when
# ONNX Runtime calls them.
TSAN_OPTIONS = "ignore_noninstrumented_modules=1"


def build(sanitizers: str) -> Path:
    return sanitized(sanitizers, *TARGETS[sanitizers])


def checked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:6000]
    assert done.stderr == ""
    return done.stdout


def watched(program: str, *words: str | Path, **options: str) -> str:
    """Run a program under the thread sanitizer, and return its output."""
    return checked(run(build(THREADS) / "tests" / program, *words, **{"TSAN_OPTIONS": TSAN_OPTIONS, **options}))


@pytest.mark.parametrize("path", PATHS or ("any",))
def test_random_op_calls_touch_no_memory_but_their_own(path: str, tmp_path: Path) -> None:
    folder, is_first = build(MEMORY), path == PATHS[0]
    command = (folder / "tests" / "op_calls", onnxruntime_library(), folder / "lib" / "libvmoe_onnxruntime.so")
    options = {"VMOE_CPU_PATH": path, "ASAN_OPTIONS": ASAN_OPTIONS, "UBSAN_OPTIONS": "print_stacktrace=1"}
    models = write_models(tmp_path, 1 if is_first or AT_LENGTH else 3)
    fuzzer = Fuzzer(command, models, 1 + PATHS.index(path), **options)
    while fuzzer.calls < (CALLS if is_first else CALLS_ON_OTHER_PATHS):
        fuzzer.step()
    assert fuzzer.close() == ""
    assert 0.1 < fuzzer.refused / fuzzer.calls < 0.5
    assert 0 < fuzzer.refused_loads < fuzzer.loads
    assert len(fuzzer.messages) >= 250 or not is_first


def test_kernels_on_many_threads_have_no_races() -> None:
    assert watched("core_threads", TSAN_OPTIONS="") == "equal 48 of 48\n"


@pytest.fixture
def mnist_int8_bundle(tmp_path: Path, mnist_checkpoint: Path) -> Path:
    """Export the whole model in int8."""
    export_bundle(mnist_checkpoint, tmp_path / "i8.vmoe", capacity=[0.3, 1.05], k=[1, 2], precision="int8", validate=False)
    return tmp_path / "i8.vmoe"


@pytest.mark.parametrize("bundle", ["mnist_bundle", "mnist_int8_bundle"])
def test_eight_threads_on_one_engine_have_no_races(bundle: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(bundle)
    words = watched("engine_threads", path, onnxruntime_library(), THREAD_ROUNDS)
    calls = 8 * (int(THREAD_ROUNDS) + 2)
    assert words.startswith(f"equal {calls} of {calls} loads 16 ")
    assert "vmoe op library, " in words


def test_sessions_that_come_and_go_on_many_threads_have_no_races() -> None:
    assert watched("session_threads") == "equal 4000 of 4000\n"


@pytest.mark.parametrize("program", HOOKS)
def test_log_callbacks_and_cancellations_have_no_races(program: str, mnist_image_bundle: Path) -> None:
    said = watched(program, mnist_image_bundle, onnxruntime_library(), HOOKS[program])
    assert re.search(r"equal (\d+) of \1\b", said)


def test_a_batcher_under_many_threads_has_no_races(mnist_image_bundle: Path) -> None:
    assert re.match(r"right [1-9]", watched("sdk_batcher", mnist_image_bundle, onnxruntime_library(), BATCHER_ROUNDS))


def test_a_planted_race_is_found(mnist_image_bundle: Path) -> None:
    programs = build(THREADS) / "tests"
    engine = [programs / "engine_threads", mnist_image_bundle, onnxruntime_library(), "2"]
    for command in ([programs / "core_threads"], engine):
        # Repeat the run, because the sanitizer misses the race in about one run of twenty.
        runs = (run(*command, "race", TSAN_OPTIONS=TSAN_OPTIONS) for _ in range(5))
        assert any(done.returncode == 66 and "data race" in done.stderr for done in runs)
