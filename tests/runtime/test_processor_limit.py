"""Tests of the default number of threads that an engine uses, in Python and in C++.

The number is limited by the CPUs that the process may use, and by a container's limit on CPU time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sdk_build import built

from vmoe_runtime.processors import usable_processors

SUPPORT = Path(__file__).parents[1] / "support"
INTO_NAMESPACE = ("unshare", "--map-root-user", "--mount", "sh", "-ec", 'mount --bind "$0" /sys/fs/cgroup; exec "$@"')
THREADS_OF_ENGINE = """
import os, sys, time
import c_engine
from vmoe_runtime import Engine

def running():
    counts = [-1]
    while len({*counts[-5:]}) > 1 or len(counts) < 6:  # until those that read the files have ended
        counts.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.1)
    return counts[-1]

def started(load):
    before = running()
    loaded = load()
    return running() - before, loaded

threads = None if sys.argv[2] == "default" else int(sys.argv[2])
python, engine = started(lambda: Engine.load(sys.argv[1], backend="onnxruntime", threads=threads))
cpp, other = started(lambda: c_engine.load(os.fsencode(sys.argv[1]), threads=threads or 0))
print(python, cpp)
"""


def threads_of_engines(bundle: Path, threads: str, group: Path) -> list[int]:
    """Return how many threads an engine uses in Python and in C++ if `group` replaces the folder /sys/fs/cgroup."""
    program = ("env", f"PYTHONPATH={SUPPORT}", sys.executable, "-c", THREADS_OF_ENGINE, bundle, threads)
    return [*map(int, built(*INTO_NAMESPACE, group, *program).split())]


@pytest.fixture(scope="module")
def unlimited(mnist_image_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Return the default number of threads without a limit, in Python and in C++.

    If this machine does not allow mount namespaces, skip the test.
    """
    group = tmp_path_factory.mktemp("group")
    tried = subprocess.run([*INTO_NAMESPACE, group, "true"], check=False, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no mount namespace: {tried.stderr}")
    return threads_of_engines(mnist_image_bundle, "default", group)


@pytest.mark.sample(3)
@pytest.mark.skipif(usable_processors() < 2, reason="a limit below the CPUs is needed")
@pytest.mark.parametrize(
    ("files", "threads", "started"),
    [
        ({"cpu.max": "100000 100000\n"}, "default", [0, 0]),
        ({"cpu.max": "50000 100000\n"}, "default", [0, 0]),
        ({"cpu.max": "100000 100000\n"}, "2", [1, 1]),
        ({"cpu.max": "max 100000\n"}, "default", None),
        ({"cpu.max": "6400000 100000\n"}, "default", None),
        ({"cpu.max": "nonsense\n"}, "default", None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "default", [0, 0]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "default", None),
    ],
)
def test_an_engine_starts_no_more_threads_than_the_control_group_has_time_for(
    files: dict[str, str],
    threads: str,
    started: list[int] | None,
    unlimited: list[int],
    mnist_image_bundle: Path,
    tmp_path: Path,
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert threads_of_engines(mnist_image_bundle, threads, tmp_path) == (unlimited if started is None else started)


@pytest.mark.skipif(usable_processors() < 2, reason="two CPUs are needed")
def test_an_engine_leaves_the_cpus_alone_that_its_process_may_not_use(mnist_image_bundle: Path) -> None:
    command = ("taskset", "-c", str(min(os.sched_getaffinity(0))), "env", f"PYTHONPATH={SUPPORT}", sys.executable, "-c")
    assert built(*command, THREADS_OF_ENGINE, mnist_image_bundle, "default").split() == ["0", "0"]
