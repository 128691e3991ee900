"""Check that the op library uses the CPU paths that the operating system supports, and prefers the best one."""

from __future__ import annotations

import cpu_paths
import pytest
from processor_flags import promised_paths

from vmoe_runtime import Engine, op_library

pytestmark = pytest.mark.skipif(op_library.find_library() is None, reason="the op library was not built here")


def test_the_paths_are_those_of_the_processor_in_order() -> None:
    assert cpu_paths.supported_paths() == promised_paths()


def test_an_engine_takes_the_best_path_and_says_which(mnist_bundle: object) -> None:
    with Engine.load(str(mnist_bundle), backend="onnxruntime") as engine:
        assert engine.backend_description.endswith(f", {promised_paths()[0]}")
