"""Requests that must be refused, as bytes, and the status that each must get."""

from __future__ import annotations

import json
from typing import Any

from serving.http_client import HEADER_LENGTH, Array, http_request
from serving.service import MODEL

INFER = f"/v2/models/{MODEL}/infer"


def malformed(image: Array) -> list[tuple[bytes, int]]:
    """Requests of HTTP that make no sense.

    Args:
        image: float32 or uint8 [1,H,W,C], of the model's size.
    """
    shape, size = list(image.shape), image.nbytes
    good = {"name": "image", "datatype": "FP32" if image.itemsize == 4 else "UINT8", "shape": shape}
    good["parameters"] = {"binary_data_size": size}

    def infer(behind: int = size, length: object = None, setting: object = None, **changes: Any) -> bytes:
        text = json.dumps({"inputs": [good | changes], "parameters": {"setting": setting}}).encode()
        return http_request(INFER, text + bytes(behind), f"{HEADER_LENGTH}: {len(text) if length is None else length}")

    bodies = [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"inputs": []}', b'{"inputs": [1, 2]}', b"[" * 100_000]
    bodies += [json.dumps({"inputs": [good | {"data": data}]}).encode() for data in ("x", [float("nan")], [[1, [2]]])]
    half = [1, shape[1] // 2, shape[2] // 2, shape[3]]
    refused = [
        *(http_request(INFER, body) for body in bodies),
        *(infer(behind=size + more) for more in (-1, 1)),
        *(infer(length=length) for length in ("x", -1, 10**9)),
        *(infer(setting=setting) for setting in ("fastest", 7)),
        *(infer(shape=bad) for bad in ([-1, *shape[1:]], [1 << 40] * 4, [], "x")),
        *(infer(**{name: "x"}) for name in ("name", "datatype", "parameters")),
        infer(behind=size // 4, shape=half, parameters={"binary_data_size": size // 4}),
        infer(behind=0, shape=[0, *shape[1:]], parameters={"binary_data_size": 0}),
        *(http_request("/v1/classify", picture) for picture in (b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(99))),
        *(
            http_request("/v1/classify", body, "Content-Type: application/json")
            for body in (b'{"images": ["?"]}', b'{"images": []}', b'{"images": ["AAAA"], "top": 0}', b'{"pictures": []}')
        ),
    ]
    absent = [http_request("/v2/models/other/infer", b"{}"), http_request("/nowhere", method="GET")]
    other_method = [http_request(INFER, method="GET"), http_request("/healthz")]
    return [(request, 400) for request in refused] + [(r, 404) for r in absent] + [(r, 405) for r in other_method]


def no_http() -> list[bytes]:
    """What is no request of HTTP: the service answers with a status from 400 to 499, or hangs up."""
    start = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n".encode()
    ends = (b"Content-Length: -5", b"Content-Length: x", b"no colon", b"Transfer-Encoding: chunked\r\n\r\nzz")
    long = b"GET /" + b"x" * 200_000 + b" HTTP/1.1"
    return [part + b"\r\n\r\n" for part in (b"\x16\x03\x01\x02", b"GET", long, *(start + end for end in ends))]


def oversized(most_bytes: int) -> list[tuple[bytes, int]]:
    """Bodies of one byte more than a body may have."""
    return [(http_request(path, bytes(most_bytes + 1)), 413) for path in (INFER, "/v1/classify")]
