"""Check that the C++ service refuses HTTP data that two servers might read as different requests.

The service must never send two responses to such data.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cpp_http
import pytest
from cpp_http import CppServer
from http_client import HttpClient, exchanged, free_port, nginx
from test_cpp_http import CHUNKED, HEALTH, HOST, POST, REFUSED, refusal

pytestmark = pytest.mark.long

GET = b"GET /healthz" + HOST
SMUGGLED = b"GET /v2" + HOST + b"\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def with_length(field: bytes, body: bytes = LAST_CHUNK + SMUGGLED) -> bytes:
    """Return a request whose header lines contradict each other: `field` and Content-Length.

    A server that obeys `field` finds a second request in the body.
    """
    return POST + field + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def chunks(size: bytes = b"4", behind: bytes = b"\r\n", last: bytes = LAST_CHUNK) -> bytes:
    return POST + CHUNKED + size + b"\r\nbody" + behind + last


def each(text: bytes) -> list[bytes]:
    return text.split(b"|")


WHITESPACE = [
    *(with_length(b"Transfer-Encoding" + space + b": chunked") for space in each(b" |\t|  |\x0b|\x0c|\xa0")),
    *(with_length(space + b"Transfer-Encoding: chunked") for space in each(b" |\t|  |\x0b|\x0c|\xa0")),
    *(with_length(b"X: y\r\n" + space + b"Transfer-Encoding: chunked") for space in each(b" |\t| \t")),
    *(with_length(b"Transfer-Encoding:" + space + b"chunked") for space in each(b"\r\n |\r\n\t|\n|\r|\x0b|\0")),
    *(GET + name + b": y\r\n\r\n" for name in each(b"X |X\t| X|\tX|X y|| |\r|\0")),
    *(GET + b"X: y\r\n" + line + b"\r\n\r\n" for line in each(b" |\t| z|\tz: z|  z| : ")),
    *(GET.replace(b"Host", line) + b"\r\n" for line in each(b" Host|\tHost| X: y\r\nHost|Host |Host\t|\r\nHost")),
]
LENGTHS = [
    POST + b"Content-Length: " + value + b"\r\n\r\nhello"
    for value in each(
        b"|+5|-5|-0|0x5|5x|5 5|5,5|5, 5|5, 6|5;|5.0|5e0|0b1|5_0|_5|'5'|\"5\"|(5)|\x0b5|5\0|5\r\n 5|\xd9\xa3|five|,5|5,|"
        b"18446744073709551616|99999999999999999999999999999999999|5\r\nContent-Length: 5|5\r\nContent-Length: 6|"
        b"5\r\ncontent-length: 0|5\r\nContent-Length: x|5\r\nContent-Length : 6|5\r\n Content-Length: 6"
    )
]
VALUES = (
    b'|identity|gzip|gzip, chunked|chunked, gzip|chunked, chunked|chunked,|,chunked|chunked;q=1|xchunked|chunkedx|"chunked"|'
    b"'chunked'|chunked\0|chunked\x0b|chunked\r\n chunked"
)
TWICE = b"chunked\r\nTransfer-Encoding: chunked|chunked\r\nTransfer-Encoding: identity|x\r\nTransfer-Encoding: chunked"
ENCODINGS = [
    *(with_length(b"Transfer-Encoding: " + value) for value in each(VALUES + b"|chunked|Chunked")),
    *(POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + LAST_CHUNK for value in each(VALUES + b"|" + TWICE)),
    POST.replace(b"1.1", b"1.0") + CHUNKED + LAST_CHUNK,
]
SIZES = (
    b"| |+4|-4|0x4|0X4|4 |4\t| 4|\t4|4\x0b|4\0|4h|h|4,|4,4|4.0|4_|_4|'4'|4 4|4;|4;=x|4; =x|4;\na|4;a\n|4;a\rb|4;a=\0|4\r|"
    b"4\n|\n4|\r\n4|10000000000000000|fffffffffffffffff|2|3|5|6|04x|\xd9\xa4|$4|#4"
)
LAST = b"+0\r\n\r\n|-0\r\n\r\n|0x0\r\n\r\n|0 \r\n\r\n| 0\r\n\r\n|0\n\n|0\r\n\n|0;\r\n\r\n|0\r\r\n\r\n|\r\n\r\n"
TRAILERS = (
    b"X: y|X : y| X: y|X: y\r\n z|X|X: y\nZ: z|: y|X: \0|Content-Length: 5|Transfer-Encoding: chunked|Transfer-Encoding: "
    b"gzip|Host: x|Content-Encoding: gzip|Connection: close"
)
CHUNKS = [
    *(chunks(size) for size in each(SIZES)),
    *(chunks(behind=behind) for behind in each(b"|\n|\r|x\r\n| \r\n|\r\r\n|\n\n|\r\n\r\n")),
    *(chunks(last=last) for last in each(LAST)),
    *(chunks(last=b"0\r\n" + trailer + b"\r\n\r\n") for trailer in each(TRAILERS)),
]
FIRST_LINES = (
    b"GET /healthz|GET  /healthz HTTP/1.1|GET /healthz  HTTP/1.1|GET /healthz HTTP/1.1 | GET /healthz HTTP/1.1|GET HTTP/1.1|"
    b"GET\t/healthz HTTP/1.1|GET /healthz\tHTTP/1.1|\r\nGET /healthz HTTP/1.1|GET /heal thz HTTP/1.1|GET /healthz HTTP/1.10|"
    b"GET /healthz HTTP/01.1|GET /healthz http/1.1|GET /healthz HTTP/1,1|GET /healthz HTTP/2.0|GET /healthz HTTP/0.9|"
    b"GET /healthz HTTP/11|GET /healthz HTTP|G(T /healthz HTTP/1.1|G\0T /healthz HTTP/1.1|GET /heal\0thz HTTP/1.1|"
    b"GET /healthz HTTP/1.1\0|PRI * HTTP/2.0|\x16\x03\x01\x02|\xff\xfe"
)
HOSTS = b"X: y|Host: x\r\nHost: x|Host: x\r\nHost: y|Host: a b|Host: a, b|Host: a/b|Host: a@b|Host: a\tb"
HEADS = [
    *(line + b"\r\nHost: x\r\n\r\n" for line in each(FIRST_LINES)),
    *(GET + b"X" + bytes([byte]) + b"y: z\r\n\r\n" for byte in b'\x01\x7f"(),/;<=>?@[\\]{}\xe9'),
    *(GET + b"X: y" + bytes([byte]) + b"z\r\n\r\n" for byte in b"\0\x01\x08\n\x0b\x0c\r\x1b\x7f"),
    *(b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n\r\n" for hosts in each(HOSTS)),
]
KINDS = (WHITESPACE, LENGTHS, ENCODINGS, CHUNKS)
THROUGH_NGINX = [sent for kind in KINDS for sent in kind[:: len(kind) // 10]]
MALFORMED = [*REFUSED, *((sent, 400, "") for sent in (*WHITESPACE, *LENGTHS, *ENCODINGS, *CHUNKS, *HEADS))]


@pytest.fixture(scope="module")
def server(mnist_image_bundle: Path) -> Iterator[CppServer]:
    started = CppServer(cpp_http.program(), mnist_image_bundle, "--max-body", "1", "--threads", "1")
    yield started
    assert started.stop() == (0, "")


def test_malformed_requests_get_their_status_and_no_second_answer(server: CppServer) -> None:
    assert len(MALFORMED) >= 240
    sends = [(case, parts) for case in MALFORMED for parts in ((case[0] + HEALTH,), (case[0], HEALTH))]
    with ThreadPoolExecutor(16) as clients:  # concurrently, because the server delays some refusals for seconds
        answers = clients.map(lambda send: exchanged(server.port, *send[1]), sends)
        for ((sent, status, message), _), answer in zip(sends, answers, strict=True):
            assert answer.startswith(b"HTTP/1.1 %d " % status) and answer.count(b"HTTP/1.1 ") == 1, (sent, answer)
            assert message in refusal(status, answer.split(b"\r\n\r\n", 1)[1]), sent
    assert server.ask("GET", "/healthz")[0] == 200


def test_behind_nginx_there_are_never_two_answers(server: CppServer, tmp_path: Path) -> None:
    port, closing = free_port(), b"Host: x\r\nConnection: close"
    upstream = f"upstream service {{ server 127.0.0.1:{server.port}; keepalive 1; }}"
    options = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off;'
    location = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://service; {options} }} }}"
    with nginx(tmp_path, port, upstream + location):
        for sent in THROUGH_NGINX:
            answer = exchanged(port, sent.replace(b"Host: x", closing, 1))
            assert answer.count(b"HTTP/1.1 ") <= 1, (sent, answer)
            status, body, _ = HttpClient(port).ask("GET", "/healthz")
            assert status == 200 and b'"waiting"' in body, (sent, body)
