"""What the HTTP service in C++ makes of bodies that were made to harm it: deep and wide JSON, and pictures that are more
than they say, or less."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cpp_http
import numpy as np
import pytest
from bad_requests import ENCODED, JSON, SEVEN, inputs
from cpp_http import CppServer
from http_client import PATIENCE
from PIL import Image

OPTIONS = ("--name", "mnist", "--max-batch", "8", "--threads", "1")
CLASSIFY, INFER = "/v1/classify", "/v2/models/mnist/infer"
MOST_BODY = 16 << 20
DEEP = 100_000


@pytest.fixture(scope="module")
def server(mnist_image_bundle: Path) -> Iterator[CppServer]:
    started = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    yield started
    assert started.stop() == (0, "")


def ask(server: CppServer, path: str, body: bytes, content_type: str = JSON) -> tuple[int, str]:
    status, text, _ = server.ask("POST", path, body, content_type=content_type)
    return status, text.decode()


def alive(server: CppServer) -> bool:
    return ask(server, CLASSIFY, SEVEN.read_bytes(), "image/png")[0] == 200


def memory(server: CppServer, field: str) -> int:
    """Bytes of the process: VmHWM is the most that it ever had, VmSize what it has mapped."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) << 10


def picture(array: Any, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


def photo(height: int = 96, width: int = 128) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8[height,width,3], noise on a slope, so that no part of a file is empty."""
    slope = np.linspace(0, 200, width)[None, :, None] + np.random.default_rng(1).integers(0, 55, (height, width, 3))
    return slope.astype(np.uint8)


def png(width: int, height: int, data: bytes, depth: int = 8, color: int = 0) -> bytes:
    """A PNG of this header, with these bytes as what is deflated."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def deflated(size: int) -> bytes:
    """As many zeros, as a zlib stream: a megabyte of them again and again, the rest, and the checksum of all."""
    whole, last = zlib.compressobj(9, wbits=-15), zlib.compressobj(9, wbits=-15)
    megabyte = whole.compress(bytes(1 << 20)) + whole.flush(zlib.Z_FULL_FLUSH)
    rest = last.compress(bytes(size % (1 << 20))) + last.flush()
    return b"\x78\xda" + megabyte * (size >> 20) + rest + (size % 65521 << 16 | 1).to_bytes(4, "big")


def nested(text: str) -> bytes:
    return text.replace("DEEP", "[" * DEEP + "]" * DEEP).encode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CLASSIFY, '{"images": [DEEP]}'),
        (CLASSIFY, '{"images": DEEP, "top": DEEP}'),
        (CLASSIFY, '{"images": ["eA=="], "setting": DEEP}'),
        (CLASSIFY, '{"images": ["eA=="], "DEEP": DEEP}'),
        (CLASSIFY, '{"images": ["eA=="], "top": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}"),
        (INFER, '{"inputs": [{"name": DEEP}]}'),
        (INFER, '{"inputs": [{"name": "image", "datatype": DEEP}]}'),
        (INFER, '{"inputs": [{"name": "image", "datatype": "FP32", "shape": DEEP}]}'),
        (INFER, '{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1,28,28,1], "data": DEEP}]}'),
        (INFER, '{"inputs": [{"name": "image", "parameters": {"x": DEEP}}]}'),
        (INFER, '{"inputs": [], "parameters": {"setting": DEEP, "binary_data_output": DEEP}}'),
        (INFER, '{"inputs": [], "outputs": [{"name": DEEP}], "id": DEEP}'),
        (INFER, "DEEP"),
    ],
)
def test_deep_json_is_refused(server: CppServer, path: str, body: str) -> None:
    status, text = ask(server, path, nested(body))
    assert status == 400 and "the request is no JSON for this model: its lists and objects are more than 64 deep" in text
    assert alive(server)


def test_json_64_deep_is_read(server: CppServer) -> None:
    deep = "[" * 60 + "0.5" + "]" * 60
    body = '{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1,28,28,1], "data": [%s]}]}'
    assert ask(server, INFER, (body % ",".join([deep, *["0.5"] * 783])).encode())[0] == 200
    assert "more than 64 deep" in ask(server, INFER, (body % ",".join([f"[{deep}]", *["0.5"] * 783])).encode())[1]


def filled(before: str, part: str, after: str, size: int = MOST_BODY) -> bytes:
    count = (size - len(before) - len(after)) // (len(part) + 1)
    return (before + ",".join([part] * count) + after).encode()


DATA = '{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1,28,28,1], "data": ['
NAMES = '{"images": ["x"], ' + ",".join(f'"{number:x}":1' for number in range(1_300_000)) + "}"
WIDE = [
    (INFER, filled(DATA, "[]", "]}]}")),
    (INFER, filled(DATA, "{}", "]}]}")),
    (INFER, filled(DATA, "1", "]}]}")),
    (INFER, filled(DATA, '""', "]}]}")),
    (INFER, filled(DATA, "[1]", "]}]}")),
    (CLASSIFY, filled('{"images": [', "[]", "]}")),
    (CLASSIFY, filled('{"images": [', '""', "]}")),
    (CLASSIFY, NAMES.encode()),
]


def test_wide_json_takes_no_more_memory_than_its_bodies(mnist_image_bundle: Path) -> None:
    """Eight bodies of 16 MB at once, as they came and were received: what is made of them is little beside that."""
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    assert alive(server)
    before = memory(server, "VmHWM")
    for path, body in WIDE:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _, path=path, body=body: ask(server, path, body), range(8)))
        for status, text in answers:
            assert status == 400 and "the request has more values than one of 8 images needs" in text
    assert memory(server, "VmHWM") - before < 3 * 8 * MOST_BODY
    assert alive(server)
    assert server.stop() == (0, "")


def test_as_many_values_as_a_request_may_have_are_read(server: CppServer) -> None:
    data = np.full((8, 28, 28, 1), 0.5).tolist()
    status, text = ask(server, INFER, json.dumps(inputs(shape=[8, 28, 28, 1], data=data)).encode())
    assert status == 200 and json.loads(text)["outputs"][0]["shape"] == [8, 10]


@pytest.mark.parametrize(("depth", "color"), [(8, 0), (16, 6)])
def test_a_picture_that_inflates_to_a_gigabyte_takes_no_memory(mnist_image_bundle: Path, depth: int, color: int) -> None:
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    assert alive(server)
    before = memory(server, "VmHWM")
    bomb = png(1, 1, deflated(1 << 30), depth, color)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(server, CLASSIFY, bomb, "image/png"), range(4)))
    for status, text in answers:
        assert status == 400 and "not a readable image: its data are larger than its size says" in text
    assert memory(server, "VmHWM") - before < 100 << 20
    assert alive(server)
    assert server.stop() == (0, "")


def test_pictures_of_all_shapes_and_depths_are_read(server: CppServer) -> None:
    """The bound on memory leaves room for all that is valid."""
    rng = np.random.default_rng(2)
    for size in ((1, 1), (1, 3000), (3000, 1), (7, 5), (1000, 999)):
        colors = rng.integers(0, 255, (*size, 3), np.uint8)
        forms = [("PNG", {}), ("BMP", {}), ("GIF", {}), ("JPEG", {"progressive": True}), ("JPEG", {"subsampling": 2})]
        for form, options in forms:
            for array in (colors, colors[..., 0]):
                sent = picture(array, form, **options)
                assert ask(server, CLASSIFY, sent, "image/x")[0] == 200, (size, form, options, array.shape)
        for depth, color, bytes_per_row in ((1, 0, (size[1] + 7) // 8), (16, 0, 2 * size[1]), (16, 6, 8 * size[1])):
            rows = rng.integers(0, 255, (size[0], 1 + bytes_per_row), np.uint8)
            rows[:, 0] = 0
            sent = png(size[1], size[0], zlib.compress(rows.tobytes(), 1), depth, color)
            assert ask(server, CLASSIFY, sent, "image/png")[0] == 200, (size, depth, color)
        sent = picture(np.dstack([colors, colors[..., 0]]), "PNG")
        assert ask(server, CLASSIFY, sent, "image/png")[0] == 200, size


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("JPEG", {"quality": 90, "subsampling": 0, "restart_marker_rows": 1}),
        ("BMP", {}),
        ("GIF", {}),
        ("PNG", {}),
    ],
)
def test_a_picture_that_was_cut_off_is_refused(server: CppServer, form: str, options: dict[str, Any]) -> None:
    whole = picture(photo(), form, **options)
    for behind in (b"", b"\r\n", bytes(1000), b"\xff" * 10, whole[:500]):
        assert ask(server, CLASSIFY, whole + behind, "image/x")[0] == 200, behind[:10]
    # The mark at the end of a GIF is nothing of the picture.
    last = len(whole) - (2 if form == "GIF" else 1)
    for length in [*np.linspace(1, last, 40).astype(int).tolist(), last - 1, last - 2, last - 3]:
        status, text = ask(server, CLASSIFY, whole[:length], "image/x")
        assert status == 400 and "not a readable image" in text, length


def tga() -> bytes:
    return picture(photo(28, 28), "TGA")


@pytest.mark.parametrize(
    "made",
    [
        tga,
        lambda: picture(photo(28, 28), "PPM"),
        lambda: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n" + bytes(4),
        lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 1, 1, 8, 3) + bytes(14) + bytes(3),
    ],
)
def test_other_formats_are_not_read(server: CppServer, made: Callable[[], bytes]) -> None:
    status, text = ask(server, CLASSIFY, made(), "image/x")
    assert status == 400 and "not a readable image: PNG, JPEG, BMP and GIF are" in text


def test_a_picture_without_memory_for_it_is_503(mnist_image_bundle: Path) -> None:
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    large = png(32768, 2048, deflated(2048 * 32769))
    assert ask(server, CLASSIFY, large, "image/png")[0] == 200
    most = memory(server, "VmSize") + (100 << 20)
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (most, most))
    status, text = ask(server, CLASSIFY, large, "image/png")
    assert status == 503 and "not enough memory" in text
    assert alive(server)
    assert server.stop() == (0, "")


def test_metrics_have_names_of_the_bundle_alone(server: CppServer) -> None:
    for index in range(20):
        assert ask(server, f"{CLASSIFY}?setting=c0.4{index + 1}-k1", SEVEN.read_bytes(), "image/png")[0] == 200
    lines = server.ask("GET", "/metrics")[1].decode().splitlines()
    settings = {line.split('setting="')[1].split('"')[0]: float(line.split()[-1]) for line in lines if 'setting="' in line}
    assert settings["other"] >= 20 and settings.keys() <= {"other", "c0.3-k1", "c0.3-k2", "c1.05-k1", "c1.05-k2"}


@pytest.mark.parametrize("content_type", ["Application/JSON", "application/json ; charset=utf-8", "APPLICATION/json"])
def test_a_media_type_is_read_in_any_case(server: CppServer, content_type: str) -> None:
    status, text = ask(server, CLASSIFY, json.dumps({"images": [ENCODED]}).encode(), content_type)
    assert status == 400 and "not a readable image" in text
    assert "'images' must be a list" in ask(server, CLASSIFY, b"{}", content_type)[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{bundle}", "--name", "-q"), 2, "--name needs a value"),
        (("{bundle}", "--host", "--help"), 2, "--host needs a value"),
        (("{bundle}", "--profile", "--quiet"), 2, "--profile needs a value"),
        (("{bundle}", "--port", "-1"), 2, "--port must be a whole number"),
        (("{bundle}", "--slo-ms", "-1"), 2, "--slo-ms must be more than 0"),
        (("{bundle}", "--slo-ms", "5", "--capacity", "1e-300:1e300"), 2, "--capacity 1e-300:1e300"),
        (("{grouped}", "--slo-ms", "5"), 1, "export it with --group image"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: tuple[str, ...], code: int, said: str, mnist_image_bundle: Path, mnist_bundle: Path
) -> None:
    given = [word.format(bundle=mnist_image_bundle, grouped=mnist_bundle) for word in words]
    command = [cpp_http.program(), *given]
    done = subprocess.run(command, capture_output=True, text=True, env=cpp_http.environment(), timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("vmoe-http: ") and done.stderr.count("\n") == 1 and said in done.stderr
