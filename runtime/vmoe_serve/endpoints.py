"""What both HTTP services share: endpoints, fields of JSON objects, refusals, options and limits.

A generated header contains these declarations for the C++ service. To add an endpoint, add a row to ENDPOINTS, and a
function of the same name to each service. For the service on Ray, the function belongs in a module of `vmoe_serve.http`. For
the C++ service, it belongs in a file of plugins/service/endpoints. After any change, run `python tools/cpp_headers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

JSON, BINARY, PICTURE = "application/json", "application/octet-stream", "image/*"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header with the number of bytes of JSON, if the bytes of a tensor follow it."""
INPUT_NAME = "image"
VERSION = "1"
"""Version of the model, in addresses and answers."""
MODEL_PATH = "/v2/models/([^/]+)(?:/versions/([^/]+))?.*"
"""Addresses of any model and version, as a regular expression."""
MAX_NAME = 100
"""Maximum length of a model's name in addresses."""
MAX_DIGITS = 19
"""Maximum number of digits of the header that gives the length of the JSON before binary tensors."""
NAME_PATTERN = f"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_NAME - 1}}}"
MAX_SLO_MS = 600_000.0
MAX_WHOLE = 1 << 40
"""The largest whole number in a request; larger ones are of no use."""
LARGE_PICTURE = 1 << 21
"""Pixels above which pictures are decoded one at a time; decoding that many takes about 30 ms."""


@dataclass(frozen=True)
class Field:
    """A field of a JSON object.

    Attributes:
        name: name of the field.
        type: type of the value, or of each item of a list: "text", "whole" (a whole number), "number", "flag", "picture" (a
            file in base64), "any", or the name of an object in OBJECTS.
        minimum: smallest allowed whole number, or minimum length of a string.
        items: minimum and maximum number of items of a list; None for a single value.
        required: whether a request without the field is refused.
        default: value that is used if a request leaves the field out or sets it to null.
        choices: allowed strings; empty if any string is allowed.
        in_query: whether the field may also be given in the query of the URL.
    """

    name: str
    type: str
    minimum: int = 0
    items: tuple[int, int] | None = None
    required: bool = False
    default: Any = None
    choices: tuple[str, ...] = ()
    in_query: bool = False

    @property
    def takes(self) -> str:
        """A description of the allowed values, for error messages."""
        if self.type == "whole":
            return f"a whole number, {self.minimum} or more"
        if self.choices:
            return " or ".join(map(repr, self.choices))
        text = "a text that is not empty" if self.minimum else "a text"
        return {"text": text, "flag": "true or false", "picture": "a picture file in base64"}.get(self.type, "an object")


_MANY = 1 << 20

OBJECTS: Mapping[str, tuple[Field, ...]] = {
    "pictures": (
        Field("images", "picture", items=(1, _MANY), required=True),
        Field("top", "whole", 1, default=5, in_query=True),
        Field("setting", "text", 1, in_query=True),
    ),
    "infer": (
        Field("inputs", "input", items=(1, 1), required=True),
        Field("outputs", "output", items=(0, 1_000), default=[]),
        Field("parameters", "parameters", default={}),
        Field("id", "text"),
    ),
    "repository": (Field("ready", "flag", default=False),),
    "parameters": (Field("setting", "text", 1), Field("binary_data_output", "flag", default=False)),
    "input": (
        Field("name", "text", required=True, choices=(INPUT_NAME,)),
        Field("datatype", "text", required=True, choices=("FP32", "UINT8")),
        Field("shape", "whole", items=(1, 8), required=True),
        Field("data", "any"),
        Field("parameters", "input_parameters", default={}),
    ),
    "input_parameters": (Field("binary_data_size", "whole"),),
    "output": (Field("name", "text", required=True), Field("parameters", "output_parameters", default={})),
    "output_parameters": (Field("binary_data", "flag"), Field("classification", "whole", 1)),
}
"""Objects of requests, by name."""
EXACT_OBJECTS = frozenset({"pictures", "parameters", "input_parameters", "output_parameters"})
"""Objects that are refused if they have other fields. In all others, clients of the Open Inference Protocol may send any."""

_CALL = {"setting": "text", "images_of_call": "whole", "waited_ms": "number", "call_ms": "number"}
_TENSOR = {"name": "text", "datatype": "text", "shape": "whole[]"}

ANSWERS: Mapping[str, Mapping[str, str]] = {
    "predictions": {"predictions": "prediction[][]", **_CALL},
    "prediction": {"class": "text", "index": "whole", "probability": "number"},
    "features": {"features": "number[][]", **_CALL},
    "inferred": {"model_name": "text", "model_version": "text", "outputs": "tensor[]", "parameters": "any", "id": "text"},
    "tensor": {**_TENSOR, "data": "any[]", "parameters": "any"},
    "model": {
        "name": "text",
        "versions": "text[]",
        "platform": "text",
        "inputs": "metadata[]",
        "outputs": "metadata[]",
        "parameters": "any",
    },
    "metadata": _TENSOR,
    "model_ready": {"name": "text", "ready": "flag"},
    "server": {"name": "text", "version": "text", "extensions": "text[]"},
    "stored": {"name": "text", "version": "text", "state": "text", "reason": "text"},
    "health": {"status": "text", "live": "flag", "ready": "flag", "model": "text", "waiting": "whole", "level": "text"},
    "error": {"error": "text"},
}
"""Types of the fields of answers: a value of `Field.type` or a name in this table; `[]` is a list. A field without a value
is null or absent."""


@dataclass(frozen=True)
class Endpoint:
    """A function of both services, and the URL paths at which clients call it.

    Attributes:
        name: name of the function that answers, in both services.
        module: name of the function's module in `vmoe_serve.http`, and of its file in plugins/service/endpoints.
        paths: URL paths; `{model}` stands for the name of the model that is served.
        summary: description of the endpoint's answer, for people to read.
        answer: type of a JSON answer, as in ANSWERS; empty for Prometheus text.
        request: name in OBJECTS of the object in a JSON body; empty if the endpoint takes no body. An endpoint without a
            body is called by GET or HEAD.
        label: value of the label `request` in the metrics; empty if requests are not counted.
    """

    name: str
    module: str
    paths: tuple[str, ...]
    summary: str
    answer: str = ""
    request: str = ""
    label: str = ""

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "POST" if self.request else "GET"


_INDEX = "/v2/repository/index"
_HEALTH = ("/healthz", "/v2/health/live", "/v2/health/ready")


def _of_model(path: str = "") -> tuple[str, ...]:
    """Return the URL paths of a model's resource. One path contains the model's version, the other one doesn't."""
    return tuple(f"/v2/models/{{model}}{version}{path}" for version in ("", f"/versions/{VERSION}"))


ENDPOINTS = (
    Endpoint("classify", "pictures", ("/v1/classify",), "The most probable classes", "predictions", "pictures", "classify"),
    Endpoint("features", "pictures", ("/v1/features",), "The features of pictures", "features", "pictures", "features"),
    Endpoint("infer", "infer", _of_model("/infer"), "The output for a tensor of images", "inferred", "infer", "infer"),
    Endpoint("model", "metadata", _of_model(), "Input, output and profiles of the model", "model", label="model"),
    Endpoint("model_ready", "metadata", _of_model("/ready"), "Whether the model answers", "model_ready", label="model"),
    Endpoint("repository", "metadata", (_INDEX,), "The models that are served", "stored[]", "repository", label="model"),
    Endpoint("server", "metadata", ("/v2",), "Name and version of the server", "server", label="model"),
    Endpoint("health", "metadata", _HEALTH, "The queue, and the setting of elastic requests", "health"),
    Endpoint("metrics", "metadata", ("/metrics",), "Counts and times as Prometheus text"),
    Endpoint("openapi", "metadata", ("/openapi.json",), "These endpoints, as OpenAPI describes them", "any"),
)
MEDIA_TYPES: Mapping[str, tuple[str, ...]] = {
    "pictures": (PICTURE, JSON),
    "infer": (JSON, BINARY),
    "inferred": (JSON, BINARY),
    "": (PROMETHEUS,),
}
"""Content types of bodies and answers that are not JSON alone."""


@dataclass(frozen=True)
class Refusal:
    """A reason to refuse requests.

    Attributes:
        status: HTTP status of the reply.
        message: text of the reason. It contains {} for each detail that is known only when a request is refused.
    """

    status: int
    message: str


NO_MODEL = Refusal(404, "there is no model '{}'; '{}' is served here")
NO_VERSION = Refusal(404, "there is no version '{}' of the model; the only one is '{}'")
ENCODED_BODY = Refusal(415, "the body's encoding is {}; gzip and deflate are known")
NO_PATH = Refusal(404, "there is nothing at {}")
NO_METHOD = Refusal(405, "{} is not allowed at {}")
TOO_SLOW = Refusal(408, "the request did not arrive within {} seconds")
TOO_LARGE = Refusal(413, "the body is larger than {} MB")
MANY_BODIES = Refusal(503, "too many large requests arrive at once")
NO_MEMORY = Refusal(503, "there is not enough memory for this request")
DECODING = Refusal(503, "other pictures were decoded for {} seconds")
NO_CLASSES = Refusal(400, "this model outputs {}, which have no 'classification'")
NO_SETTINGS = Refusal(400, "this model has nothing to set: it takes no 'setting'")
LOGITS_MODEL = Refusal(400, "this model outputs logits: use /v1/classify")
FEATURES_MODEL = Refusal(400, "this model outputs features, not classes: use /v1/features")
MEMBERS_MODEL = Refusal(400, "this model outputs the logits of each member: use infer")
TOKENS_MODEL = Refusal(400, "this model outputs the tokens of images: use infer")
NO_PICTURE = Refusal(400, "the request has no picture: send a picture file as the body, or JSON with 'images'")
WRONG_IMAGE_COUNT = Refusal(400, "a request takes 1 to {} images, not {}")
NO_JSON = Refusal(400, "the request is not JSON: {}")
NO_BODY_ENCODING = Refusal(400, "the body is not {}, or not complete")
NO_OBJECT = Refusal(400, "the request must be a JSON object")
UNKNOWN_FIELD = Refusal(400, "the request has a field {}; {} are known")
TOO_DEEP = Refusal(400, "the request's lists and objects are nested more than {} deep")
TOO_MANY_VALUES = Refusal(400, "the request has more values than the model can need")
NO_FIELD = Refusal(400, "the request has no '{}'")
WRONG_FIELD = Refusal(400, "'{}' must be {}, not {}")
WRONG_LIST = Refusal(400, "'{}' must be a list of {} to {} items")
WRONG_OUTPUT = Refusal(400, "the model's only output is '{}'")
WRONG_OUTPUTS = Refusal(400, "the model's outputs are '{}', and a request names each once at most")
WRONG_LENGTH = Refusal(400, f"{HEADER_LENGTH} is {{}}, and the body has {{}} bytes")
WRONG_BYTES = Refusal(400, "'image' of shape {} has {} bytes, and {} follow the JSON")
UNCLAIMED_BYTES = Refusal(400, "bytes follow the JSON, and no input claims them by binary_data_size")
WRONG_COUNT = Refusal(400, "'image' of shape {} has {} values, and 'data' has {}")
WRONG_NUMBERS = Refusal(400, "'data' of 'image' must be a list of numbers, and for UINT8 of whole numbers from 0 to 255")
NOT_FINITE = Refusal(400, "'image' has NaN or infinite values")

# Only the C++ service needs the refusals below. In the service on Ray, Ray's own server handles such requests before the
# service sees them.
NO_HTTP = Refusal(400, "the request can't be understood: {}")
OLD_HTTP = Refusal(400, "only HTTP/1.0 and HTTP/1.1 are supported")
NO_HOST = Refusal(400, "the request must have one Host header")
NO_END = Refusal(400, "the end of the body is unclear: send Content-Length, or Transfer-Encoding: chunked")
LATE_HEADERS = Refusal(400, "headers after the body are not accepted")
NO_BODY_TAKEN = Refusal(400, "{} takes no body")
NO_BODY_LENGTH = Refusal(411, "send the body's Content-Length, or chunks")
LONG_HEAD = Refusal(431, "the first line and the headers have more than {} bytes")
MANY_CLIENTS = Refusal(503, "too many clients are connected")


@dataclass(frozen=True)
class Option:
    """A command line option that both HTTP services have. Its value is a whole number.

    Attributes:
        name: name of the option as a Python attribute.
        maximum: the largest value; the smallest is 1.
        default: the value if the option is not given.
        help: description for `--help`.
    """

    name: str
    maximum: int
    default: int
    help: str


OPTIONS = (
    Option("batch_size", 4096, 16, "Maximum number of images per call, and of pictures per request."),
    Option("max_waiting", 1 << 20, 256, "Maximum number of images in the queue and per tensor; further requests get 503."),
    Option("max_body", 1024, 16, "Maximum size of a request's body in megabytes; larger ones get 413."),
    Option("request_seconds", 3600, 10, "Maximum number of seconds for a request to arrive; slower ones get 408."),
)
