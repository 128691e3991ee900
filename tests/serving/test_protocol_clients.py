"""Check that the HTTP services on Ray and in C++ work with Triton's and KServe's clients.

The services must also conform to /openapi.json. The clients have a separate environment, which `make test-all` creates in
build/clients/venv.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cpp_http
import numpy as np
import pytest
from cpp_http import CppServer
from sdk_build import built

from vmoe_runtime import Engine

pytestmark = [pytest.mark.long, pytest.mark.slow]
pytest.importorskip("ray", reason="Ray is not installed")

from test_serve_ray import STOPS, Server  # noqa: E402

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "build" / "clients" / "venv" / "bin"
CLIENTS = ROOT / "tests" / "support" / "protocol_clients.py"
OPTIONS = ("--name", "mnist", "--batch-size", "16", "--max-waiting", "64", "--threads", "1")
IMAGES = np.random.default_rng(0).uniform(-1, 1, (40, 28, 28, 1)).astype(np.float32)
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
CHECKS += "response_schema_conformance,negative_data_rejection,unsupported_method"

if not ENVIRONMENT.exists():
    pytest.skip("the clients are not installed; make test-all does it", allow_module_level=True)


@pytest.fixture(scope="module", params=["Ray", "C++"])
def port(request: pytest.FixtureRequest, mnist_image_bundle: Path) -> Iterator[int]:
    if request.param == "C++":
        server: Any = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    else:
        server = Server(mnist_image_bundle, *OPTIONS)
    yield server.port
    assert server.stop() in ((0, ""), (0, STOPS))


@pytest.fixture(scope="module")
def answers(port: int, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the clients, and return the responses that they received, by client and request."""
    images = tmp_path_factory.mktemp("clients") / "images.npy"
    np.save(images, IMAGES)
    found: dict[str, Any] = json.loads(built(ENVIRONMENT / "python", CLIENTS, str(port), "mnist", images))
    return found


def test_clients_see_a_server_that_is_live_and_a_model_that_is_ready(answers: dict[str, Any]) -> None:
    for question in ("live", "ready", "model ready"):
        assert answers[f"triton {question}"] is answers[f"kserve {question}"] is True
    assert answers["triton server"]["name"] == "vmoe-export"
    assert answers["triton model"]["versions"] == [answers["triton index"][0]["version"]] == ["1"]


def test_clients_get_the_bits_of_the_engine_for_more_images_than_a_call_takes(
    answers: dict[str, Any], engine: Engine
) -> None:
    expected = engine(IMAGES)
    for question in ("binary", "json", "gzip", "deflate", "default outputs"):
        np.testing.assert_array_equal(np.array(answers[f"triton {question}"], np.float32), expected)
    for question in ("binary", "json"):
        np.testing.assert_array_equal(np.array(answers[f"kserve {question}"], np.float32), expected)


def test_a_client_gets_classes_and_a_reason_for_what_is_not_known(answers: dict[str, Any], engine: Engine) -> None:
    best = np.argsort(-engine(IMAGES), axis=1, kind="stable")[:, :3]
    for question in ("classes", "classes in json"):
        indices = [[int(text.split(":")[1]) for text in row] for row in answers[f"triton {question}"]]
        np.testing.assert_array_equal(indices, best)
    assert "'parameters.priority'; setting, binary_data_output are known" in answers["triton priority"].replace('"', "'")


def test_random_requests_get_what_the_openapi_document_says(port: int) -> None:
    location = f"http://127.0.0.1:{port}/openapi.json"
    options = ["--max-examples", "10", "--phases", "coverage,fuzzing", "--seed", "1", "--checks", CHECKS]
    built(ENVIRONMENT / "st", "run", location, *options, folder=ENVIRONMENT)
