"""Servers that fork their workers: each worker answers with an engine of its own and ends when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import prefork_server
import pytest
from bundle_changes import BUNDLES
from damaged_files import assert_one_sentence

from vmoe_runtime import Engine


@pytest.mark.parametrize("before", ["nothing", "import", "engine"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_four_forked_workers_answer_and_end(backend: str, before: str) -> None:
    bundle = BUNDLES / "v3-fp32"
    command = [sys.executable, prefork_server.__file__, str(bundle), backend, before]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout and server.stderr
        answers = json.loads(server.stdout.readline())
        server.send_signal(signal.SIGTERM)
        codes = json.loads(server.stdout.readline())
        complaints = server.stderr.read()
    assert (server.returncode, complaints) == (0, "")
    assert codes == [0, 0, 0, 0]
    assert len({answer["process"] for answer in answers}) == 4
    with Engine.load(bundle, backend=backend, threads=2) as engine:
        expected = engine(prefork_server.IMAGE)[0]
    for answer in answers:
        np.testing.assert_array_equal(np.float32(answer["logits"]), expected)
        if before == "engine":
            assert_one_sentence(answer["refusal"], "loaded before this process was forked", "load it in each process")
