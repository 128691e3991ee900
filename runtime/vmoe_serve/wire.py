"""What requests and answers look like on the wire: JSON, raw pictures, and the Open Inference Protocol, version 2.

The protocol's binary extension, which Triton's clients use, puts tensors behind the JSON: its length stands in a header, and
each tensor says how many bytes are its own.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_runtime.errors import VmoeError, shown

Array = np.ndarray[Any, np.dtype[Any]]

HEADER_LENGTH = "inference-header-content-length"
_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
_MOST_DIMENSIONS = 8
_MOST_DEPTH = 64


class RequestError(VmoeError):
    """A request that can't be understood, or asks for what there isn't."""


@dataclass(frozen=True)
class ClassifyRequest:
    """Pictures to classify.

    Attributes:
        pictures: encoded picture files.
        top: classes to answer with for each.
        setting: name of a profile; None leaves it to the server.
    """

    pictures: tuple[bytes, ...]
    top: int
    setting: str | None


@dataclass(frozen=True)
class InferRequest:
    """One `infer` of the Open Inference Protocol.

    Attributes:
        images: float32 or uint8, as the client shaped it.
        setting: name of a profile; None leaves it to the server.
        id: to be said again in the answer; None where there is none.
        binary: the answer's tensor is wanted behind its JSON.
    """

    images: Array
    setting: str | None
    id: str | None
    binary: bool


def read_classify(body: bytes, content_type: str, query: Mapping[str, str], most_pictures: int) -> ClassifyRequest:
    """Reads `{"images": [BASE64, ...], "top": N, "setting": NAME}`, or one picture; the query may have the latter two.

    Raises:
        RequestError: it can't be understood.
    """
    fields: dict[str, Any] = {"top": query.get("top"), "setting": query.get("setting")}
    if fields["top"] is not None:
        fields["top"] = int(fields["top"]) if fields["top"].isascii() and fields["top"].isdigit() else -1
    if content_type.partition(";")[0].strip().lower() == "application/json":
        given = _object(body)
        unknown = sorted(set(given) - {"images", "top", "setting"})
        if unknown:
            raise RequestError(f"the request has a field {shown(unknown[0])}; images, top and setting are known")
        pictures = _pictures(given.get("images"), most_pictures)
        fields |= {name: value for name, value in given.items() if name != "images" and value is not None}
    elif body:
        pictures = (body,)
    else:
        raise RequestError("the request has no body: send a picture, or JSON with 'images'")
    top = 5 if fields["top"] is None else fields["top"]
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise RequestError("'top' must be a whole number from 1 on")
    return ClassifyRequest(pictures, top, _setting(fields["setting"]))


def read_infer(body: bytes, header_length: str | None, output: str) -> InferRequest:
    """Reads an `infer` request with one input `image`, of datatype FP32 or UINT8.

    Args:
        body: JSON, and tensors behind it.
        header_length: what the header `Inference-Header-Content-Length` says; None without it.
        output: name of the only output.

    Raises:
        RequestError: it can't be understood.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and int(header_length[:19]) <= len(body)):
            raise RequestError(
                f"Inference-Header-Content-Length is {shown(header_length)}, and the body has {len(body)} bytes"
            )
        length = int(header_length)
    given = _object(body[:length])
    inputs = given.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RequestError("the request must have one input, 'image'")
    images = _tensor(inputs[0], body[length:])
    parameters = _parameters(given)
    outputs = given.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(part, dict) for part in outputs):
        raise RequestError("'outputs' must be a list of objects")
    names = [part.get("name") for part in outputs]
    if names not in ([], [output]):
        raise RequestError(f"the model's only output is '{output}'")
    wanted = [_parameters(part).get("binary_data") for part in outputs]
    name = given.get("id")
    if name is not None and not isinstance(name, str):
        raise RequestError("'id' must be a text")
    return InferRequest(
        images,
        _setting(parameters.get("setting")),
        name,
        bool(wanted[0] if wanted and wanted[0] is not None else parameters.get("binary_data_output", False)),
    )


def write_infer(
    model: str, request: InferRequest, output: str, logits: Array, setting: str | None
) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of the answer to an `infer` request.

    Args:
        model: its name.
        request: what was asked.
        output: name of the output.
        logits: float32[N, ...].
        setting: name of the one that served; it stands in the parameters.
    """
    tensor: dict[str, Any] = {"name": output, "datatype": "FP32", "shape": list(logits.shape)}
    values = np.ascontiguousarray(logits, "<f4")
    if request.binary:
        tensor["parameters"] = {"binary_data_size": values.nbytes}
    else:
        tensor["data"] = [value if math.isfinite(value) else None for value in values.ravel().tolist()]
    answer: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": [tensor]}
    if setting is not None:
        answer["parameters"] = {"setting": setting}
    if request.id is not None:
        answer["id"] = request.id
    text = json_bytes(answer)
    if not request.binary:
        return text, {"content-type": "application/json"}
    return text + values.tobytes(), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8; what is no finite number must have been made None."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request is no JSON: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(value, dict):
        raise RequestError("the request must be a JSON object")
    return value


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _pictures(given: object, most: int) -> tuple[bytes, ...]:
    if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
        raise RequestError("'images' must be a list of picture files in base64")
    if len(given) > most:
        raise RequestError(f"a request takes at most {most} images, not {len(given)}")
    try:
        return tuple(base64.b64decode(text, validate=True) for text in given)
    except (binascii.Error, ValueError):
        raise RequestError("'images' must be picture files in base64, and one of them isn't") from None


def _setting(given: object) -> str | None:
    if given is None or (isinstance(given, str) and given):
        return given
    raise RequestError(f"'setting' must be the name of a profile, not {shown(given)}")


def _parameters(given: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError("'parameters' must be an object")
    return parameters


def _tensor(given: Mapping[str, Any], behind: bytes) -> Array:
    if given.get("name") != "image":
        raise RequestError(f"the model's only input is 'image', not {shown(given.get('name'))}")
    datatype = given.get("datatype")
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        raise RequestError(f"the datatype of 'image' must be FP32 or UINT8, not {shown(datatype)}")
    dtype = _DTYPES[datatype]
    shape = given.get("shape")
    if not isinstance(shape, list) or not 1 <= len(shape) <= _MOST_DIMENSIONS or not all(_is_size(size) for size in shape):
        raise RequestError("the shape of 'image' must be a list of whole numbers, [N, height, width, channels]")
    values = math.prod(shape)
    size = _parameters(given).get("binary_data_size")
    if size is not None:
        if not _is_size(size) or size != len(behind) or size != values * dtype.itemsize:
            raise RequestError(
                f"'image' of shape {shape} has {values * dtype.itemsize} bytes, and {len(behind)} stand behind the JSON"
            )
        images: Array = np.frombuffer(behind, dtype).reshape(shape)
        return images
    if behind:
        raise RequestError("there are bytes behind the JSON that no input claims by binary_data_size")
    return _values(given.get("data"), dtype, shape, values)


def _values(data: object, dtype: np.dtype[Any], shape: Sequence[int], count: int) -> Array:
    """Numbers of JSON, flat or nested."""
    flat: list[Any] = []
    parts: list[tuple[object, int]] = [(data, 0)]
    while parts:
        part, depth = parts.pop()
        if isinstance(part, list) and depth < _MOST_DEPTH:
            parts += [(inner, depth + 1) for inner in reversed(part)]
        elif isinstance(part, int | float) and not isinstance(part, bool):
            flat.append(part)
        else:
            raise RequestError("'data' of 'image' must be a list of numbers")
    if len(flat) != count:
        raise RequestError(f"'image' of shape {list(shape)} has {count} values, and 'data' has {len(flat)}")
    if dtype.kind == "u" and not all(isinstance(value, int) and 0 <= value <= 255 for value in flat):
        raise RequestError("'data' of datatype UINT8 must be whole numbers from 0 to 255")
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, np.float64 if dtype.kind == "f" else dtype).astype(dtype).reshape(shape)
    except (OverflowError, ValueError):
        raise RequestError("'data' of 'image' has numbers that are too large") from None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1 << 40
