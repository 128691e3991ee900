"""Check that each worker of a server that forks can run its own engine, and ends when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import prefork_server
import pytest
from bundle_changes import BUNDLES
from damaged_files import assert_one_sentence

from vmoe_runtime import Engine
from vmoe_runtime.backends.sharing import SharedLoads


@pytest.mark.sample(2)
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


def test_a_fork_waits_for_a_load_that_runs() -> None:
    began, never, running, loads = threading.Event(), threading.Event(), [], SharedLoads()

    def load() -> threading.Event:
        running.append("a load")
        began.set()
        never.wait(0.3)
        running.clear()
        return never

    loading = threading.Thread(target=loads.get, args=("key", load))
    loading.start()
    assert began.wait(60)
    if (child := os.fork()) == 0:
        os._exit(len(running) or loads.get("key", lambda: loads) is not loads)
    assert os.waitpid(child, 0)[1] == 0
    loading.join()
