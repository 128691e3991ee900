"""Compiles the programs that many tests run, so that no test waits for a compiler.

`make test` runs this script during set-up:

PYTHONPATH=benchmarks:tests python tests/support/build_programs.py
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cpp_http
import pytest
import sdk_build
from emulated_op_library import build_op_library
from gpu_emulator import build_emulator
from tensorrt_nodes import build_plugin


def main() -> None:
    with contextlib.suppress(pytest.skip.Exception):
        prefixes = sdk_build.prefixes().all.values()
        builds: list[Callable[[], object]] = [cpp_http.program, sdk_build.service_sample]
        builds += [build_emulator, build_op_library, build_plugin]
        builds += [lambda prefix=prefix: sdk_build.program(prefix, "sdk_runner") for prefix in prefixes]
        builds += [lambda prefix=prefix: sdk_build.minimal_sample(prefix) for prefix in prefixes]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_build, builds))


def _build(build: Callable[[], object]) -> None:
    """Run one build, unless this machine lacks something that it needs."""
    with contextlib.suppress(pytest.skip.Exception):
        build()


if __name__ == "__main__":
    main()
