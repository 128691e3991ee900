"""Check that zero-shot bundles give the same probabilities as transformers, whatever serves them.

The tests run both HTTP services, Triton's repository, batch jobs and the page.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cpp_http
import numpy as np
import pytest
from browser import open_browser, show
from cpp_http import CppServer
from http_client import HttpClient
from page_site import answers_of, served, until_answered, web_folder, write_page
from ray_cluster import ray_cluster
from test_serve_ray import Server

pytestmark = pytest.mark.long

pytest.importorskip("transformers", reason="transformers is not installed")
import pyarrow.csv  # noqa: E402
import pyarrow.parquet  # noqa: E402
from zeroshot_models import MODELS, NAMES, Zeroshot, picture_files, pictures  # noqa: E402

from vmoe_export import export_zeroshot  # noqa: E402
from vmoe_runtime import Engine  # noqa: E402
from vmoe_tools.program import main  # noqa: E402

TEXTS = [f"a photo of a {name}." for name in NAMES]


@pytest.fixture(scope="module", params=["hf_clip", "hf_siglip"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zeroshot:
    return MODELS[request.param](tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(scope="module")
def bundle(model: Zeroshot) -> Path:
    return export_zeroshot(model.folder, model.folder.with_name("mnist.vmoe"), NAMES).path


@pytest.fixture(scope="module")
def files(model: Zeroshot) -> list[Path]:
    folder = model.folder.with_name("pictures")
    folder.mkdir()
    return picture_files(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with ray_cluster() as variables:
        yield variables


@pytest.fixture(params=["C++", pytest.param("Ray", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, bundle: Path) -> Iterator[HttpClient]:
    options = ("--threads", "1", "--batch-size", "32")
    started: Any = CppServer(cpp_http.program(), bundle, *options) if request.param == "C++" else Server(bundle, *options)
    yield started
    assert started.stop()[0] == 0


def by_name(answers: list[Any]) -> np.ndarray:
    """Convert lists of classes and their probabilities to float64[images, classes].

    The lists may be in any order.
    """
    return np.array([[dict(answer)[name] for name in NAMES] for answer in answers])


def test_services_answer_with_the_probabilities_of_the_library(
    server: HttpClient, model: Zeroshot, files: list[Path]
) -> None:
    body = {"images": [base64.b64encode(path.read_bytes()).decode() for path in files], "top": len(NAMES)}
    status, answer, _ = server.ask("POST", "/v1/classify", json.dumps(body).encode(), content_type="application/json")
    assert status == 200, answer
    found = [[(each["class"], each["probability"]) for each in best] for best in json.loads(answer)["predictions"]]
    np.testing.assert_allclose(by_name(found), model.expected(pictures(), TEXTS), rtol=0, atol=1e-4)
    metadata = json.loads(server.ask("GET", "/v2/models/mnist")[1])
    assert metadata["parameters"]["probabilities"] == model.probabilities
    images = pictures().astype(np.float32) / 127.5 - 1
    status, _, data = server.infer(images)
    logits = np.frombuffer(data, np.float32).reshape(20, -1)
    assert status == 200
    np.testing.assert_allclose(logits, model.answers(pictures(), TEXTS).logits, rtol=0, atol=1e-4)


def test_triton_tells_clients_what_logits_become(bundle: Path, model: Zeroshot, tmp_path: Path) -> None:
    assert main(["serve", "triton", str(bundle), str(tmp_path / "repository"), "--backend", "both", "-q"]) == 0
    for path in (tmp_path / "repository").rglob("config.pbtxt"):
        assert f'key: "probabilities" value {{ string_value: "{model.probabilities}" }}' in path.read_text()


@pytest.mark.slow
def test_a_batch_job_writes_them_in_both_formats(
    cluster: dict[str, str], bundle: Path, model: Zeroshot, files: list[Path], tmp_path: Path
) -> None:
    found: dict[str, Any] = {}
    for form in ("csv", "parquet"):
        options = ["--format", form, "--top", len(NAMES), "--part-size", 8, "-q"]
        words = map(str, [bundle, files[0].parent, tmp_path / form, *options])
        subprocess.run([sys.executable, "-m", "vmoe_tools", "serve", "batch", *words], check=True, env=os.environ | cluster)
        paths = sorted((tmp_path / form).glob(f"part-*.{form}"))
        assert len(paths) == 3
        read = pyarrow.csv.read_csv if form == "csv" else pyarrow.parquet.read_table
        found[form] = [row for path in paths for row in read(path).to_pylist()]
    ranks = range(1, len(NAMES) + 1)
    of_csv = [[(row[f"class_{i}"], row[f"probability_{i}"]) for i in ranks] for row in found["csv"]]
    of_parquet = [list(zip(row["class"], row["probability"], strict=True)) for row in found["parquet"]]
    assert of_csv == of_parquet
    np.testing.assert_allclose(by_name(of_csv), model.expected(pictures(), TEXTS), rtol=0, atol=1e-4)


def test_the_page_shows_them(bundle: Path, model: Zeroshot, tmp_path: Path) -> None:
    web_folder()
    script = "async ({ logits, kind }) => (await import('./probabilities.js')).probabilitiesOf(logits, kind)"
    with served(write_page(bundle, tmp_path / "site")) as address, open_browser() as browser:
        page = show(browser, address, 1440)
        until_answered(page, "WebAssembly on")
        kind = page.evaluate("async () => (await (await fetch('page.json')).json()).probabilities")
        with Engine.load(bundle) as engine:
            unmerged = engine.setting(merge=0)
        logits = [answer["logits"] for answer in answers_of(page, pictures(), unmerged)]
        found = [page.evaluate(script, {"logits": each, "kind": kind}) for each in logits]
    assert kind == model.probabilities
    np.testing.assert_allclose(found, model.expected(pictures(), TEXTS), rtol=0, atol=1e-4)
