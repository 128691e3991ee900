"""Tests that run a real Triton server on a repository that `vmoe serve triton` wrote.

The server's outputs over HTTP and gRPC must have the same bits as the engine's outputs at the requested settings.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_server import MISSING, ServerError, TritonServer, run_client, serve

from vmoe_runtime import Engine
from vmoe_tools.program import main

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "triton.md"
BUNDLES = Path(__file__).parents[1] / "data" / "bundles"
OTHERS = tuple(next(BUNDLES.glob(f"*-{kind}")).name for kind in ("dense", "choice", "ensemble", "soft"))
SETTINGS: list[dict[str, Any]] = [
    {},
    {"profile": "c1.05-k2"},
    {"capacity": 0.5},
    {"capacity": "0.5", "k": 2, "bpr": False},
    {"profile": "c0.3-k1", "pool": True, "max_experts": 4},
    {"profile": "c0.2-k1-vanilla"},
    {"k": "2", "bpr": "false"},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"profile": "fast"}, "there is no profile 'fast'"),
    ({"capcity": 0.5}, "there is no request parameter 'capcity'"),
    ({"capacity": -1}, "capacity"),
    ({"k": 9}, "k"),
    ({"bpr": "perhaps"}, "'perhaps'"),
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, mnist_image_bundle: Path) -> Path:
    """Write a repository that contains the models in OTHERS and the model `mnist`.

    For `mnist`, Triton delays calls so that each call can include more requests.
    """
    repository = tmp_path_factory.mktemp("triton") / "repository"
    options = ["--name", "mnist", "--batch-size", "256", "--threads", "1", "-q"]
    # Copy the bundle, because repositories contain hard links to the files of their bundle, and onnx's checker refuses files
    # with hard links.
    mnist = shutil.copytree(mnist_image_bundle, repository.with_name("own"))
    assert main(["serve", "triton", str(mnist), str(repository), *options]) == 0
    other = repository.with_name("other")
    for name in OTHERS:
        bundle = shutil.copytree(BUNDLES / name, repository.with_name(name))
        assert main(["serve", "triton", str(bundle), str(other), "--name", name, "-q", "--force"]) == 0
        (other / name).rename(repository / name)
    config = repository / "mnist" / "config.pbtxt"
    delayed = "dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: 256 }"
    config.write_text(config.read_text().replace("dynamic_batching { }", delayed))
    return repository


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with serve(repository, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def images(engine: Engine, mnist_images: dict[str, np.ndarray]) -> np.ndarray:
    """Return digits from the test set, float32[256,28,28,1]."""
    return engine.batch(mnist_images["images"][:256])


def check_answer(answer: dict[str, Any], engine: Engine, images: np.ndarray, parameters: dict[str, Any]) -> None:
    assert "error" not in answer, answer
    values = {name: {"true": True, "false": False}.get(value, value) for name, value in parameters.items()}
    numbers = {"capacity": float, "k": int}
    fields = {name: numbers[name](value) if name in numbers else value for name, value in values.items()}
    setting = engine.setting(**fields)
    assert setting is not None
    assert answer["setting"] == [[setting.name]] * len(images)
    assert answer["logits"].dtype == np.float32
    assert np.array_equal(answer["logits"], engine(images, setting.name))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_mixed_settings_in_one_execution(server: TritonServer, engine: Engine, images: np.ndarray, protocol: str) -> None:
    requests = []
    for number in range(24):
        parameters = (SETTINGS + [bad for bad, _ in BAD])[number % (len(SETTINGS) + len(BAD))]
        requests.append(("mnist", images[number * 3 : number * 3 + 1 + number % 3], parameters))
    before = server.statistics("mnist")
    answers = server.answers(protocol, requests)
    after = server.statistics("mnist")
    for (_, part, parameters), answer in zip(requests, answers, strict=True):
        message = next((message for bad, message in BAD if bad is parameters), None)
        if message is None:
            check_answer(answer, engine, part, parameters)
        else:
            assert message in answer["error"]
    executions = after["execution_count"] - before["execution_count"]
    assert executions < len(requests) / 2, "Triton ran the requests one by one"


def test_the_example_of_the_documentation(server: TritonServer, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    (tmp_path / "example.py").write_text(program.replace("localhost:8000", server.addresses["http"]))
    assert run_client(tmp_path / "example.py").strip() == program.strip().rpartition("# ")[2]


def test_bundles_of_other_kinds_give_what_the_engine_gives(server: TritonServer) -> None:
    with ExitStack() as stack:
        engines = {name: stack.enter_context(Engine.load(BUNDLES / name)) for name in OTHERS}
        images = {}
        for name, engine in engines.items():
            image = engine.manifest.input
            shape = (6, image.height, image.width, image.channels)
            images[name] = engine.batch(np.random.default_rng(3).integers(0, 256, shape, np.uint8))
        answers = server.answers("grpc", [(name, images[name], {}) for name in OTHERS], at_once=1)
        for (name, engine), answer in zip(engines.items(), answers, strict=True):
            assert np.array_equal(answer[engine.manifest.output], engine(images[name])), name
            assert answer.get("setting") == ([[engine.profile.name]] * 6 if engine.profile else None), name
    for answer in server.answers("http", [(name, images[name], {"k": 99}) for name in OTHERS], at_once=1):
        assert "k" in answer["error"]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="this environment has numpy 1")
def test_a_model_with_a_numpy_that_is_too_new_is_not_loaded(tmp_path: Path) -> None:
    bundle = shutil.copytree(BUNDLES / OTHERS[0], tmp_path / "small.vmoe")
    assert main(["serve", "triton", str(bundle), str(tmp_path / "repository"), "-q"]) == 0
    message = r"this Triton is older than 25\.02.*pip install 'numpy<2'"
    with pytest.raises(ServerError, match=message), serve(tmp_path / "repository", tmp_path, older_numpy=False):
        pass
