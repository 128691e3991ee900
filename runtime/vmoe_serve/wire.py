"""What requests and answers look like on the wire: JSON, raw pictures, and the Open Inference Protocol, version 2.

The protocol's binary extension, which Triton's clients use, puts tensors behind the JSON: its length stands in a header, and
each tensor says how many bytes are its own.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vmoe_runtime import VmoeError
from vmoe_runtime.errors import shown

Array = np.ndarray[Any, np.dtype[Any]]

HEADER_LENGTH = "inference-header-content-length"
_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
_USUAL_TOP = 5


class RequestError(VmoeError):
    """A request that can't be understood, or asks for what there isn't.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)


_Setting = Annotated[str, Field(min_length=1)] | None
_Size = Annotated[int, Field(ge=0, le=1 << 40)]
_Picture = Annotated[str, AfterValidator(lambda text: base64.b64decode(text, validate=True))]
_Message_ = TypeVar("_Message_", bound=_Message)


class ClassifyRequest(_Message):
    """Pictures to classify.

    Attributes:
        images: encoded picture files; base64 in JSON.
        top: classes to answer with for each.
        setting: name of a profile; None leaves it to the server.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    images: Annotated[list[_Picture], Field(min_length=1)]
    top: Annotated[int, Field(ge=1)] = _USUAL_TOP
    setting: _Setting = None


class Parameters(_Message):
    """Those of the protocol that are known here, of a request, an input and an output."""

    setting: _Setting = None
    binary_data: bool | None = None
    binary_data_output: bool = False
    binary_data_size: _Size | None = None


class InputTensor(_Message):
    """The images of a request; `data` is a list of numbers, flat or nested, where they don't stand behind the JSON."""

    name: Literal["image"]
    datatype: Literal["FP32", "UINT8"]
    shape: Annotated[list[_Size], Field(min_length=1, max_length=8)]
    data: Any = None
    parameters: Parameters = Parameters()


class RequestedOutput(_Message):
    """An output that is wanted."""

    name: str
    parameters: Parameters = Parameters()


class InferRequest(_Message):
    """One `infer` of the Open Inference Protocol."""

    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=1)] = []
    parameters: Parameters = Parameters()
    id: str | None = None

    @property
    def binary(self) -> bool:
        """Whether the answer's tensor is wanted behind its JSON."""
        wanted = self.outputs[0].parameters.binary_data if self.outputs else None
        return self.parameters.binary_data_output if wanted is None else wanted


def read_classify(body: bytes, content_type: str, query: Mapping[str, str], most_pictures: int) -> ClassifyRequest:
    """Reads `{"images": [BASE64, ...], "top": N, "setting": NAME}`, or one picture; the query may have the latter two.

    No picture begins with a brace, so what does is JSON, whatever the content type says.

    Raises:
        RequestError: it can't be understood.
    """
    fields: dict[str, Any] = dict(query)
    if fields.get("top", "").isdecimal():
        fields["top"] = int(fields["top"][:9])
    if content_type.partition(";")[0].strip().lower() == "application/json" or body.startswith(b"{"):
        request = _read(ClassifyRequest, body, fields)
    elif body and not content_type.startswith("multipart/"):
        request = _read(ClassifyRequest, b'{"images": [""]}', fields).model_copy(update={"images": [body]})
    else:
        raise RequestError("the request has no picture as its body: send one as it is, or JSON with 'images'")
    if len(request.images) > most_pictures:
        raise RequestError(f"a request takes at most {most_pictures} images, not {len(request.images)}")
    return request


def read_infer(body: bytes, header_length: str | None, output: str) -> tuple[InferRequest, Array]:
    """Reads an `infer` request with one input `image`, of datatype FP32 or UINT8.

    Args:
        body: JSON, and tensors behind it.
        header_length: value of the header `Inference-Header-Content-Length`; None without it.
        output: name of the only output.

    Returns:
        The request; and its images, float32 or uint8, in the shape that it says.

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
    request = _read(InferRequest, body[:length], {})
    if any(each.name != output for each in request.outputs):
        raise RequestError(f"the model's only output is '{output}'")
    return request, _images(request.inputs[0], body[length:])


def write_infer(
    model: str, request: InferRequest, output: str, logits: Array, setting: str | None
) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of the answer to an `infer` request.

    Args:
        model: its name.
        request: what is answered.
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
    text = json.dumps(answer, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()
    if not request.binary:
        return text, {"content-type": "application/json"}
    return text + values.tobytes(), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def _read(kind: type[_Message_], body: bytes, defaults: Mapping[str, Any]) -> _Message_:
    """A message of JSON, with defaults for what it doesn't have or has as null."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request is no JSON: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(fields, dict):
        raise RequestError("the request must be a JSON object")
    try:
        return kind.model_validate({**defaults, **{name: value for name, value in fields.items() if value is not None}})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            raise RequestError(f"the request has a field '{where[:80]}'; {', '.join(kind.model_fields)} are known") from None
        raise RequestError(f"the request's '{where[:80]}' can't be used: {' '.join(first['msg'].split())[:200]}") from None


def _images(tensor: InputTensor, behind: bytes) -> Array:
    dtype, shape = _DTYPES[tensor.datatype], tensor.shape
    size, values = tensor.parameters.binary_data_size, math.prod(shape)
    if size is not None:
        if size != len(behind) or size != values * dtype.itemsize:
            raise RequestError(
                f"'image' of shape {shape} has {values * dtype.itemsize} bytes, and {len(behind)} stand behind the JSON"
            )
        images: Array = np.frombuffer(behind, dtype).reshape(shape)
        return images
    if behind:
        raise RequestError("there are bytes behind the JSON that no input claims by binary_data_size")
    return _numbers(tensor.data, dtype, shape, values)


def _numbers(data: object, dtype: np.dtype[Any], shape: Sequence[int], count: int) -> Array:
    """Numbers of JSON, flat or nested."""
    try:
        numbers = np.array(data if isinstance(data, list) else None)
    except (ValueError, OverflowError):
        numbers = np.array(None)
    if numbers.dtype.kind not in ("iu" if dtype.kind == "u" else "iuf") and numbers.size:
        raise RequestError("'data' of 'image' must be a list of numbers, whole ones for UINT8")
    if numbers.size != count:
        raise RequestError(f"'image' of shape {list(shape)} has {count} values, and 'data' has {numbers.size}")
    if dtype.kind == "u" and not all(0 <= bound <= 255 for bound in (numbers.min(initial=0), numbers.max(initial=0))):
        raise RequestError("'data' of datatype UINT8 must be whole numbers from 0 to 255")
    with np.errstate(over="ignore"):
        return numbers.astype(dtype).reshape(shape)
