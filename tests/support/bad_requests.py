"""HTTP requests and command lines that a service must refuse.

The requests are for an MNIST model with batches of up to 8 images.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from serving.http_client import HEADER_LENGTH, http_request

SEVEN = Path(__file__).parents[2] / "samples" / "mnist" / "seven.png"
JSON = "application/json"
BAD_LENGTHS = ("-1", "x", "9" * 30, "0" * 5000, "100000", "٣")
"""Values of the header `Inference-Header-Content-Length`."""


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": [0.5, -0.5] * 392} | changes


def inputs(**changes: Any) -> dict[str, Any]:
    return {"inputs": [tensor(**changes)]}


def encoded(body: bytes | dict[str, Any]) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


ENCODED, DIGITS = base64.b64encode(b"no picture").decode(), base64.b64encode(SEVEN.read_bytes()).decode()
BAD_CLASSIFY: list[tuple[bytes | dict[str, Any], str, dict[str, str], str]] = [
    (b"", "image/png", {}, "the request has no picture: send a picture file"),
    (b"", JSON, {}, "the request is not JSON"),
    (b"{", JSON, {}, "the request is not JSON"),
    (b"[1]", JSON, {}, "must be a JSON object"),
    (b"\xff\xfe", JSON, {}, "the request is not JSON"),
    (b'{"images": NaN}', JSON, {}, ""),
    (b"[" * 100_000, JSON, {}, ""),
    ({}, JSON, {}, "the request has no 'images'"),
    ({"images": []}, JSON, {}, "'images' must be a list of 1 to"),
    ({"images": "x"}, JSON, {}, "'images' must be a list of 1 to 8 items"),
    ({"images": [1]}, JSON, {}, "'images.0' must be a picture file in base64"),
    ({"images": ["%%%"]}, JSON, {}, "'images.0' must be a picture file in base64"),
    ({"images": ["é"]}, JSON, {}, "'images.0' must be a picture file in base64"),
    ({"images": [DIGITS + "\n"]}, JSON, {}, "'images.0' must be a picture file in base64"),
    ({"images": [" " + DIGITS]}, JSON, {}, "'images.0' must be a picture file in base64"),
    ({"images": [DIGITS + "===="]}, JSON, {}, "'images.0' must be a picture file in base64"),
    ({"images": [ENCODED + "==" + DIGITS]}, JSON, {}, "'images.0' must be a picture file in base64"),
    ({"images": [DIGITS[:-5] + "=" + DIGITS[-4:]]}, JSON, {}, "'images.0' must be a picture file in base64"),
    ({"images": [ENCODED] * 9}, JSON, {}, "'images' must be a list of 1 to 8 items"),
    ({"images": [ENCODED]}, JSON, {}, "not a readable image"),
    ({"images": [ENCODED], "tops": 1}, JSON, {}, "a field 'tops'; images, top, setting are known"),
    ({"images": [ENCODED], "top": 0}, JSON, {}, "'top' must be a whole number, 1 or more"),
    ({"images": [ENCODED], "top": True}, JSON, {}, "'top' must be a whole number, 1 or more"),
    ({"images": [ENCODED], "top": 1.5}, JSON, {}, "'top' must be a whole number, 1 or more"),
    ({"images": [ENCODED], "setting": 5}, JSON, {}, "'setting' must be a text"),
    ({"images": [DIGITS], "setting": "\ud800"}, JSON, {}, ""),
    (b"no picture", "image/png", {}, "not a readable image"),
    ({"images": []}, "application/x-www-form-urlencoded", {}, "'images' must be a list"),
    (b"--x", "multipart/form-data; boundary=x", {}, "the request has no picture"),
    (SEVEN.read_bytes(), "image/png", {"top": "many"}, "'top' must be a whole number"),
    (SEVEN.read_bytes(), "image/png", {"top": "-1"}, "'top' must be a whole number"),
    (SEVEN.read_bytes(), "image/png", {"setting": "fastest"}, "no profile 'fastest'"),
    (SEVEN.read_bytes(), "image/png", {"setting": "c0.3-k9"}, "not 9"),
    (SEVEN.read_bytes(), "image/png", {"": "0"}, "a field ''; top, setting are known"),
    ({"images": [ENCODED], "": 1}, JSON, {}, "a field ''"),
    (SEVEN.read_bytes(), "image/png", {"seting": "c0.3-k1"}, "a field 'seting'; top, setting are known"),
    (SEVEN.read_bytes()[:200], "image/png", {}, "not a readable image"),
]

IMAGE = np.zeros((1, 28, 28, 1), np.float32).tobytes()
BAD_INFER: list[tuple[dict[str, Any] | bytes, bytes, str]] = [
    (b"x", b"", "the request is not JSON"),
    ({}, b"", "the request has no 'inputs'"),
    ({"inputs": [tensor(), tensor()]}, b"", "'inputs' must be a list of 1 to 1"),
    ({"inputs": ["image"]}, b"", "'inputs.0' must be an object"),
    (inputs(name="picture"), b"", "'inputs.0.name' must be 'image', not"),
    (inputs(datatype="FP64"), b"", "'inputs.0.datatype' must be 'FP32' or 'UINT8', not"),
    (inputs(datatype=None), b"", "the request has no 'inputs.0.datatype'"),
    (inputs(shape=[1, 28, "28", 1]), b"", "'inputs.0.shape.2' must be a whole number"),
    (inputs(shape=[1, 28, -28, 1]), b"", "'inputs.0.shape.2' must be a whole number, 0 or more"),
    (inputs(shape=[]), b"", "'inputs.0.shape' must be a list of 1 to 8"),
    (inputs(shape=[1, 14, 56, 1]), b"", "and the model takes"),
    (inputs(shape=[2, 28, 28, 1]), b"", "has 1568 values, and 'data' has 784"),
    (inputs(shape=[1, 1, 28, 28]), b"", "and the model takes"),
    (inputs(data=None), b"", "must be a list of numbers"),
    (inputs(data=["x"] * 784), b"", "must be a list of numbers"),
    (inputs(data=[True] * 784), b"", "must be a list of numbers"),
    (inputs(data=[True] + [0.5] * 783), b"", "must be a list of numbers"),
    (inputs(datatype="UINT8", data=[True] + [1] * 783), b"", "must be a list of numbers"),
    # numpy would pad each string to the length of the longest one, so the strings would take 72 GB
    (inputs(data=["x" * 900_000] + ["x"] * 20_000), b"", "must be a list of numbers"),
    (inputs(data=[[0.5], [0.5] * 783, 0.5]), b"", ""),
    (inputs(data=[0.5] * 783), b"", "has 784 values, and 'data' has 783"),
    (inputs(data=[10**400] * 784), b"", ""),
    (inputs(data=[1e39] * 784), b"", "'image' has NaN or infinite values"),
    (inputs(parameters={"binary_data_size": 3136}), np.full(784, np.nan, np.float32).tobytes(), "NaN or infinite"),
    (inputs(parameters={"binary_data_size": 3136}), np.full(784, np.inf, np.float32).tobytes(), "NaN or infinite"),
    (inputs(data=[255] * 784), b"", "float images go"),
    (inputs(datatype="UINT8", data=[0.5] * 784), b"", "whole numbers from 0 to 255"),
    (inputs(datatype="UINT8", data=[256] * 784), b"", "whole numbers from 0 to 255"),
    ({**inputs(), "parameters": []}, b"", "'parameters' must be an object"),
    ({**inputs(), "parameters": {"setting": "fastest"}}, b"", "no profile 'fastest'"),
    ({**inputs(), "parameters": {"setting": "a" * 900_000}}, b"", "there is no profile 'aaa"),
    ({**inputs(), "parameters": {"setting": ["c0.3-k1"]}}, b"", "'parameters.setting' must be a text"),
    ({**inputs(), "parameters": {"priority": 1}}, b"", "'parameters.priority'; setting, binary_data_output are known"),
    (inputs(parameters={"shared_memory_region": "a"}), b"", "'inputs.0.parameters.shared_memory"),
    ({**inputs(), "outputs": [{"name": "logits", "parameters": {"classification": 0}}]}, b"", "classification' must be a"),
    ({**inputs(), "id": 5}, b"", "'id' must be a text"),
    ({**inputs(), "id": "\ud800"}, b"", ""),
    ({**inputs(), "outputs": 5}, b"", "'outputs' must be a list of 0 to 1000"),
    ({**inputs(), "outputs": [{"name": "features"}]}, b"", "the model's only output is 'logits'"),
    (inputs(), IMAGE, "no input claims them by binary_data_size"),
    (inputs(parameters={"binary_data_size": 3136}), IMAGE[:-1], "has 3136 bytes, and 3135 follow the JSON"),
    (inputs(parameters={"binary_data_size": "3136"}), IMAGE, "parameters.binary_data_size' must be a whole number"),
    (inputs(parameters={"binary_data_size": 3136}, shape=[1 << 40] * 8), IMAGE, "and the model takes"),
    (inputs(shape=[33, 28, 28, 1], parameters={"binary_data_size": 33 * 3136}), IMAGE * 33, "1 to 32 images, not 33"),
    (inputs(shape=[0, 28, 28, 1], data=[]), b"", "images"),
    (inputs(shape=[0, 1 << 40, 1 << 40, 3], data=[]), b"", "and the model takes"),
    (inputs(shape=[0, 1 << 40, 1 << 40, 3], parameters={"binary_data_size": 0}), b"", "and the model takes"),
]


BAD_STARTS: list[tuple[str, int, str]] = [
    ("", 2, "BUNDLE"),
    ("absent.vmoe", 1, "absent.vmoe is not a bundle"),
    ("{bundle} --slo-ms 0", 2, "--slo-ms"),
    ("{bundle} --slo-ms nan", 2, "--slo-ms"),
    ("{bundle} --slo-ms 1e9", 2, "--slo-ms"),
    ("{bundle} --capacity 0.2", 2, "--slo-ms"),
    ("{bundle} --slo-ms 5 --sweep 1.05:0.2", 2, "not a range of capacity ratios"),
    ("{bundle} --slo-ms 5 --capacity 9", 2, "9"),
    ("{bundle} --slo-ms 5 --capacity 0.2 --profile c1-k1 --profile c1-k2", 2, "one --profile"),
    ("{bundle} --profile c1-k1 --profile c1-k2", 2, "--slo-ms"),
    ("{bundle} --port 65536", 2, "--port"),
    ("{bundle} --host absent.invalid", 1, "can't serve at absent.invalid:8000"),
    ("{bundle} --name a/b", 2, "--name"),
    ("{bundle} --batch-size 32 --max-waiting 16", 2, "--max-waiting 16 is less than"),
    ("{grouped}", 1, "export it with --group image"),
    ("{dense} --slo-ms 5", 2, "the bundle has none"),
]
"""Arguments that no service accepts, the exit code, and a part of the message."""

OWN_LIMITS = ("1 to 8 items", "not 33", "not 9")
"""The ends of messages about requests that another service or model would accept."""


def malformed(model: str) -> list[tuple[bytes, int]]:
    """Return complete requests that a service must refuse, whatever its model is.

    Each request is paired with the expected status.
    """
    infer = f"/v2/models/{model}/infer"
    requests = [
        http_request("/v1/classify?" + "&".join(map("=".join, query.items())), encoded(body), f"Content-Type: {kind}")
        for body, kind, query, said in BAD_CLASSIFY
        if not said.endswith(OWN_LIMITS)
    ]
    requests += [
        http_request(infer, encoded(body) + behind, *[f"{HEADER_LENGTH}: {len(encoded(body))}"] * bool(behind))
        for body, behind, said in BAD_INFER
        if not said.endswith(OWN_LIMITS)
    ]
    requests += [http_request(infer, encoded(inputs()), f"{HEADER_LENGTH}: {length}") for length in BAD_LENGTHS]
    absent = [http_request("/v2/models/other/infer", b"{}"), http_request("/nowhere", method="GET")]
    other_method = [http_request(infer, method="GET"), http_request("/healthz")]
    return [(r, 400) for r in requests] + [(r, 404) for r in absent] + [(r, 405) for r in other_method]


def no_http() -> list[bytes]:
    """Return byte strings that are not HTTP requests.

    The service must answer with a status from 400 to 499, or close the connection.
    """
    start = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n"
    ends = (b"Content-Length: -5", b"Content-Length: x", b"no colon", b"Transfer-Encoding: chunked\r\n\r\nzz")
    long = b"GET /" + b"x" * 200_000 + b" HTTP/1.1"
    return [part + b"\r\n\r\n" for part in (b"\x16\x03\x01\x02", b"GET", long, *(start + end for end in ends))]


def oversized(model: str, most_bytes: int) -> list[tuple[bytes, int]]:
    """Return requests whose bodies exceed `most_bytes` by one byte, each paired with the expected status."""
    return [(http_request(path, bytes(most_bytes + 1)), 413) for path in (f"/v2/models/{model}/infer", "/v1/classify")]
