"""Tests that send malicious bodies to the HTTP service in C++.

The bodies are deep or wide JSON, or pictures whose real size is larger or smaller than their headers claim.
"""

from __future__ import annotations

import json
import resource
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cpp_http
import numpy as np
import pytest
from bad_requests import JSON, SEVEN
from cpp_http import CppServer
from odd_pictures import png, slope
from picture_file import picture_file

OPTIONS = ("--name", "mnist", "--batch-size", "8", "--threads", "1")
CLASSIFY, INFER = "/v1/classify", "/v2/models/mnist/infer"
MOST_BODY = 16 << 20
DATA = '{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1,28,28,1], "data": ['


@pytest.fixture(scope="module")
def server(mnist_image_bundle: Path) -> Iterator[CppServer]:
    started = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    assert ask(started, CLASSIFY, SEVEN.read_bytes(), "image/png")[0] == 200
    yield started
    assert ask(started, CLASSIFY, SEVEN.read_bytes(), "image/png")[0] == 200
    assert started.stop() == (0, "")


def ask(server: CppServer, path: str, body: bytes, content_type: str = JSON) -> tuple[int, str]:
    status, text, _ = server.ask("POST", path, body, content_type=content_type)
    return status, text.decode()


def memory(server: CppServer, field: str) -> int:
    """Return a field of the server's memory status in bytes, such as VmHWM (peak memory) or VmSize (mapped memory)."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) << 10


def deflated(size: int) -> bytes:
    """Return a zlib stream that contains `size` zeros.

    Its parts are a megabyte block that is repeated, a last block, and the checksum.
    """
    whole, last = zlib.compressobj(9, wbits=-15), zlib.compressobj(9, wbits=-15)
    megabyte = whole.compress(bytes(1 << 20)) + whole.flush(zlib.Z_FULL_FLUSH)
    rest = last.compress(bytes(size % (1 << 20))) + last.flush()
    return b"\x78\xda" + megabyte * (size >> 20) + rest + (size % 65521 << 16 | 1).to_bytes(4, "big")


def test_deep_json_is_refused(server: CppServer) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    for path, body in (
        (CLASSIFY, f'{{"images": [{deep}]}}'),
        (CLASSIFY, '{"top": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}"),
        (INFER, DATA + deep + "]}]}"),
        (INFER, deep),
    ):
        status, text = ask(server, path, body.encode())
        assert status == 400 and "nested more than 64 deep" in text


def filled(before: str, part: str, after: str) -> bytes:
    count = (MOST_BODY - len(before) - len(after)) // (len(part) + 1)
    return (before + ",".join([part] * count) + after).encode()


@pytest.mark.sample(2)
@pytest.mark.parametrize("part", ["[]", "{}", "1", '""', "keys"])
def test_wide_json_takes_no_more_memory_than_its_bodies(part: str, server: CppServer) -> None:
    """Send eight concurrent bodies of 16 MB each.

    The parsed data must not need much more memory than the received bytes.
    """
    before = memory(server, "VmHWM")
    if part == "keys":
        path, body = CLASSIFY, ("{" + ",".join(f'"{number:x}":1' for number in range(1_300_000)) + "}").encode()
    else:
        path, body = INFER, filled(DATA, part, "]}]}")
    with ThreadPoolExecutor(8) as pool:
        for status, text in pool.map(lambda _: ask(server, path, body), range(8)):
            assert status == 400 and "the request has more values than the model can need" in text
    assert memory(server, "VmHWM") - before < 3 * 8 * MOST_BODY


def test_more_objects_than_a_request_needs_are_refused(server: CppServer) -> None:
    """Send a list that contains many objects. Without a limit on objects, parsing the list would take minutes.

    The parser walks through the whole list after each object.
    """
    status, text = ask(server, INFER, (DATA + ",".join(["{}"] * 3000) + "]}]}").encode())
    assert status == 400 and "the request has more values than the model can need" in text
    most = {"inputs": [{}], "outputs": [{"name": "x", "parameters": {}}] * 1000, "parameters": {}}
    status, text = ask(server, INFER, json.dumps(most).encode())
    assert status == 400 and "the request has no 'inputs.0.name'" in text


@pytest.mark.parametrize(("depth", "color"), [(8, 0), (16, 6)])
def test_a_picture_that_inflates_to_a_gigabyte_takes_no_memory(mnist_image_bundle: Path, depth: int, color: int) -> None:
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    before = memory(server, "VmHWM")
    bomb = png(depth, color, data=deflated(1 << 30), size=(1, 1))
    with ThreadPoolExecutor(4) as pool:
        for status, text in pool.map(lambda _: ask(server, CLASSIFY, bomb, "image/png"), range(4)):
            assert status == 400 and "not a readable image: its data are larger than its size says" in text
    assert memory(server, "VmHWM") - before < 100 << 20
    assert server.stop() == (0, "")


def test_other_formats_and_too_many_pixels_are_refused(server: CppServer) -> None:
    radiance = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n" + bytes(4)
    for sent in (picture_file(slope(), "TGA"), picture_file(slope(), "GIF"), radiance):
        status, text = ask(server, CLASSIFY, sent, "image/x")
        assert status == 400 and "not a readable image: it is neither PNG nor JPEG" in text
    status, text = ask(server, CLASSIFY, png(8, 0, data=b"", size=(30_000, 30_000)), "image/png")
    assert status == 400 and "30000x30000 pixels, more than 33,554,432" in text


@pytest.mark.parametrize(
    ("width", "depth", "color", "bytes_per_row", "statuses"), [(8192, 16, 6, 65536, {400}), (3800, 16, 6, 30400, {200, 503})]
)
def test_large_pictures_delay_nobody_and_not_the_end(
    width: int, depth: int, color: int, bytes_per_row: int, statuses: set[int], mnist_image_bundle: Path
) -> None:
    """Send 60 large pictures concurrently, and then a signal.

    While the pictures are processed, other requests get responses. The service ends as soon as every picture has been
    answered or refused. A picture is refused if it has to wait for longer than a second.
    """
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--request-seconds", "1")
    before = memory(server, "VmHWM")
    bomb = png(depth, color, data=deflated(width * (bytes_per_row + 1)), size=(width, width))
    image = np.zeros((1, 28, 28, 1), np.float32)
    with ThreadPoolExecutor(60) as pool:
        bombs = [pool.submit(server.ask, "POST", CLASSIFY, bomb) for _ in range(60)]
        for _ in range(20):
            assert server.infer(image)[0] == 200
            assert ask(server, CLASSIFY, SEVEN.read_bytes(), "image/png")[0] == 200
        assert memory(server, "VmHWM") - before < 300 << 20
        assert server.stop() == (0, "")
    replies = [sent.result() for sent in bombs]
    assert {status for status, _, _ in replies} == statuses
    for status, text, response in replies:
        assert status != 503 or (response.headers["retry-after"] == "1" and b"other pictures were decoded" in text)


def test_a_lack_of_memory_is_503_and_no_end(mnist_image_bundle: Path) -> None:
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    large = png(16, 6, data=deflated(3800 * 30401), size=(3800, 3800))
    assert ask(server, CLASSIFY, large, "image/png")[0] == 200
    most = memory(server, "VmSize") + (40 << 20)
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (most, most))
    status, text = ask(server, CLASSIFY, large, "image/png")
    assert status == 503 and "not enough memory" in text
    assert ask(server, CLASSIFY, SEVEN.read_bytes(), "image/png")[0] == 200
    assert server.stop() == (0, "")
