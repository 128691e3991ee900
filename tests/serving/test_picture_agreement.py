"""Check that Python, the C++ service, Ray and batch jobs agree on each picture.

They must either all give the same result for a picture, or all refuse it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cpp_http
import numpy as np
import pytest
from bad_requests import SEVEN
from cpp_http import CppServer
from odd_pictures import jpeg, odd_pictures, png, slope
from picture_file import picture_file

from vmoe_export import export_bundle
from vmoe_runtime import Engine, ImageError

pytestmark = pytest.mark.long
pa = pytest.importorskip("pyarrow")
pytest.importorskip("ray.serve", reason="Ray is not installed")

import test_wire  # noqa: E402

from vmoe_serve.batch.job import Job, manifest_digest  # noqa: E402
from vmoe_serve.batch.pipeline import Classifier  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
JPEG_DIFFERENCE = 0.02  # allowed difference between probabilities, because JPEG decoders differ by a few grey levels

Verdict = dict[str, float] | None  # a dict from class name to probability, or None for a refusal


class Readers:
    """The four programs that read pictures, all with the same bundle."""

    def __init__(self, bundle: Path, engine: Engine, server: CppServer) -> None:
        self._engine, self._server = engine, server
        self._ray = test_wire.served(engine)
        job = Job(manifest_digest(bundle), "", 0, None, None, "onnxruntime", None, 10, 1)
        self._batch = Classifier(job, bundle, 8, 1)

    def read(self, pictures: list[bytes]) -> dict[str, list[Verdict]]:
        answers = self._batch(pa.table({"path": [""] * len(pictures), "bytes": pictures})).to_pylist()
        return {
            "Python": [self._python(picture) for picture in pictures],
            "C++": [self._http(*self._server.ask("POST", "/v1/classify?top=10", picture)[:2]) for picture in pictures],
            "Ray": [self._asked(picture) for picture in pictures],
            "batch": [None if row["error"] else dict(zip(row["class"], row["probability"], strict=True)) for row in answers],
        }

    def _python(self, picture: bytes) -> Verdict:
        try:
            return {str(name): share for name, share in self._engine.classify(picture, 10)[0]}
        except ImageError as error:
            assert "\n" not in str(error)
            return None

    def _asked(self, picture: bytes) -> Verdict:
        sent = test_wire.answered(self._ray, "POST", "/v1/classify?top=10", picture, content_type="image/x")
        reply = asyncio.run(sent)
        return self._http(reply.status, reply.body)

    def _http(self, status: int, body: bytes) -> Verdict:
        assert status in (200, 400), body
        return {best["class"]: best["probability"] for best in json.loads(body)["predictions"][0]} if status == 200 else None

    def unturned(self) -> float:
        """Return the number of pictures for which the C++ service reports that it ignored the EXIF orientation."""
        text = self._server.ask("GET", "/metrics")[1].decode()
        return float(text.split("vmoe_pictures_unturned_total{")[1].split()[1])

    def close(self) -> None:
        self._ray.close()


@contextmanager
def readers(bundle: Path) -> Iterator[Readers]:
    server = CppServer(cpp_http.program(), bundle, "--threads", "1")
    with Engine.load(bundle, backend="onnxruntime", threads=1) as engine:
        four = Readers(bundle, engine, server)
        yield four
        four.close()
    code, told = server.stop()
    assert (code, told.count("EXIF orientation")) == (0, told.count("\n")) and told.count("\n") <= 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("first", ["", "exif|background(200,30,90)|"])
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_pictures_get_the_same_answer_everywhere_or_a_refusal(
    channels: int, first: str, mnist_image_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "steps.vmoe"
    source = mnist_image_bundle if channels == 1 else GOLDEN / "g4"
    export_bundle(source, bundle, validate=False, preprocess=f"{first}resize({28 if channels == 1 else 64})")
    pictures = odd_pictures()
    with readers(bundle) as four:
        found = four.read(list(pictures.values()))
        assert four.unturned() == 0 if first else four.unturned() > 20
    for name, python, *others in zip(pictures, *found.values(), strict=True):
        for other in others:
            assert (python is None) == (other is None), name
            if python is not None and other is not None:
                most = JPEG_DIFFERENCE if name.startswith("JPEG") else 1e-12
                np.testing.assert_allclose([other[each] for each in python], list(python.values()), 0, most, err_msg=name)
    answered = sum(verdict is not None for verdict in found["Python"])
    assert answered >= 100 and len(pictures) - answered >= 70
    assert len(pictures) >= 200


def test_a_picture_with_a_flipped_bit_or_without_its_end_is_answered_by_nobody(mnist_image_bundle: Path) -> None:
    rng = np.random.default_rng(0)
    damaged = []
    for whole in (SEVEN.read_bytes(), picture_file(slope(28, 28))):
        for position in rng.choice(8 * len(whole), 250, replace=False):
            flipped = bytearray(whole)
            flipped[position // 8] ^= 1 << position % 8
            damaged.append(bytes(flipped))
    for whole in (png(8, 2), jpeg(slope()), jpeg(slope(), progressive=True)):
        damaged += [whole[:size] for size in [*range(1, len(whole) - 4, len(whole) // 40), *range(-4, 0)]]
    with readers(mnist_image_bundle) as four:
        for reader, found in four.read(damaged).items():
            assert not [verdict for verdict in found if verdict is not None], reader
