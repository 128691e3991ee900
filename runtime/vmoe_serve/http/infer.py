"""The endpoint `infer` of the Open Inference Protocol, version 2.

The protocol has a binary extension, which Triton's clients use. In this extension, the bytes of the tensors follow the JSON.
An HTTP header gives the length of the JSON, and each tensor in the JSON declares its number of bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from vmoe_runtime.classes import Array, most_probable
from vmoe_runtime.errors import ImageError, shown
from vmoe_serve import endpoints
from vmoe_serve.http.requests import RequestError, read_json, read_object
from vmoe_serve.service import Service, run

_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}


async def infer(service: Service, request: Request) -> Response:
    """Answer a request that contains one tensor of images.

    The request's parameter `setting` is the name of a profile. In the answer, `setting` is the name of the profile that was
    used.
    """
    content, images = _read(await service.body(request), request.headers.get(endpoints.HEADER_LENGTH), service)
    batch = await run(service.tensors, _batch, service, images)
    answer = await service.answer(batch, content["parameters"]["setting"])
    asked = {each["name"]: each["parameters"] for each in content["outputs"]} or {name: {} for name in answer.outputs}
    usual = {"binary_data": content["parameters"]["binary_data_output"]}
    tensors, binary = [], b""
    for name, values in answer.outputs.items():
        if name in asked:
            given = {key: value for key, value in asked[name].items() if value is not None}
            tensor, after = _tensor(service, name, values, usual | given)
            tensors.append(tensor)
            binary += after
    reply: dict[str, Any] = {"model_name": service.name, "model_version": endpoints.VERSION, "outputs": tensors}
    if answer.setting is not None:
        reply["parameters"] = {"setting": answer.setting.name}
    if content["id"] is not None:
        reply["id"] = content["id"]
    text = json.dumps(reply, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()
    if not binary:
        return Response(text, media_type=endpoints.JSON)
    return Response(text + binary, headers={endpoints.HEADER_LENGTH: str(len(text))}, media_type=endpoints.BINARY)


def _tensor(service: Service, name: str, output: Array, parameters: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return two representations of an output tensor: its JSON, and the bytes that follow the JSON.

    If the output is not sent in binary form, there are no bytes.
    """
    is_binary, binary = parameters["binary_data"], b""
    data: list[Any] = []
    if (most := parameters.get("classification")) is not None:
        data = _classes(service, output, most)
        datatype, shape = "BYTES", [len(output), len(data) // len(output)]
        binary = b"".join(len(text).to_bytes(4, "little") + text for text in (value.encode() for value in data))
    else:
        datatype, shape = "FP32", list(output.shape)
        if is_binary:
            binary = np.ascontiguousarray(output, "<f4").tobytes()
        else:
            data = [value if math.isfinite(value) else None for value in output.ravel().tolist()]
    tensor = {"name": name, "datatype": datatype, "shape": shape}
    if is_binary:
        return {**tensor, "parameters": {"binary_data_size": len(binary)}}, binary
    return {**tensor, "data": data}, b""


def _read(body: bytes, header_length: str | None, service: Service) -> tuple[dict[str, Any], Array]:
    """Return the fields of a request, and its images as float32 or uint8.

    The images have the shape that the request gives.
    """
    length = len(body)
    if header_length is not None:
        is_whole = header_length.isascii() and header_length.isdigit() and len(header_length) <= endpoints.MAX_DIGITS
        if not (is_whole and int(header_length) <= length):
            raise RequestError(endpoints.WRONG_LENGTH, shown(header_length), length)
        length = int(header_length)
    content, manifest = read_object("infer", read_json(body[:length])), service.engine.manifest
    asked = [each["name"] for each in content["outputs"]]
    if not manifest.answers.keys() >= set(asked) or len(set(asked)) < len(asked):
        refusal = endpoints.WRONG_OUTPUTS if len(manifest.answers) > 1 else endpoints.WRONG_OUTPUT
        raise RequestError(refusal, "', '".join(manifest.answers))
    for each in content["outputs"]:
        if each["name"] != "logits" and each["parameters"]["classification"]:
            raise RequestError(endpoints.NO_CLASSES, each["name"])
    tensor = content["inputs"][0]
    if tensor["shape"][1:] != [*manifest.input.size]:
        # Refuse a wrong shape before an array is made, because the shape may be larger than any array can be.
        taken = ", ".join(map(str, manifest.input.size))
        raise ImageError(f"'image' has shape {shown(tensor['shape'])}, and the model takes (N, {taken})")
    return content, _images(tensor, body[length:])


def _classes(service: Service, logits: Array, most: int) -> list[Any]:
    """Return `LOGIT:INDEX:NAME` for the `most` most probable classes of each image, in Triton's format."""
    names = service.engine.manifest.class_names
    named = [f":{name}" for name in names] if names else [""] * logits.shape[1]
    best = most_probable(logits, most)
    return [f"{row[index]:f}:{index}{named[index]}" for row, chosen in zip(logits, best, strict=True) for index in chosen]


def _images(tensor: dict[str, Any], binary: bytes) -> Array:
    dtype, shape = _DTYPES[tensor["datatype"]], tensor["shape"]
    size, count = tensor["parameters"]["binary_data_size"], math.prod(shape)
    if size is None:
        if binary:
            raise RequestError(endpoints.UNCLAIMED_BYTES)
        return _numbers(tensor["data"], dtype, shape, count)
    if size != len(binary) or size != count * dtype.itemsize:
        raise RequestError(endpoints.WRONG_BYTES, shape, count * dtype.itemsize, len(binary))
    return np.frombuffer(binary, dtype).reshape(shape)


def _batch(service: Service, images: Array) -> Array:
    """Return a batch for the engine that contains the images. Refuse pixels that are not finite."""
    if not np.isfinite(images).all():
        raise RequestError(endpoints.NOT_FINITE)
    return service.engine.batch(images)


def _numbers(data: object, dtype: np.dtype[Any], shape: Sequence[int], count: int) -> Array:
    """Return an array of shape `shape` from `data`, a flat or nested list of numbers in JSON."""
    # Without dtype=object, numpy would accept booleans as numbers. If `data` contained strings, numpy would also allocate
    # the length of the longest string for each item.
    values = np.array(data if isinstance(data, list) else None, object)
    items = values.ravel().tolist()
    are_numbers = ({int, float} if dtype.kind == "f" else {int}).issuperset(map(type, items))
    if not are_numbers or (dtype.kind == "u" and not 0 <= min(items, default=0) <= max(items, default=0) <= 255):
        raise RequestError(endpoints.WRONG_NUMBERS)
    if len(items) != count:
        raise RequestError(endpoints.WRONG_COUNT, shape, count, len(items))
    try:
        with np.errstate(over="ignore"):
            return values.astype(dtype).reshape(shape)
    except OverflowError:
        raise RequestError(endpoints.WRONG_NUMBERS) from None
