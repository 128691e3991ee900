"""An OpenAPI 3.1 document that describes the endpoints. It is made from the table of endpoints.

Both HTTP services serve this document.
"""

from __future__ import annotations

from typing import Any

from vmoe_serve import endpoints
from vmoe_serve.endpoints import ANSWERS, ENDPOINTS, JSON, MEDIA_TYPES, OBJECTS, Endpoint, Field

_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "whole": {"type": "integer"},
    "number": {"type": "number"},
    "flag": {"type": "boolean"},
    "picture": {"type": "string", "contentEncoding": "base64"},
    "any": {},
}
_NULL = {"type": "null"}


def document(model: str) -> dict[str, Any]:
    """Return the OpenAPI document as a JSON object. `model` is the name of the model."""
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        for path in endpoint.paths:
            paths[path.format(model=model)] = {endpoint.method.lower(): _operation(endpoint, path)}
    schemas = {f"{name}_request": _object_schema(name) for name in OBJECTS}
    schemas |= {
        name: {"type": "object", "properties": {key: {"anyOf": [_schema(kind), _NULL]} for key, kind in fields.items()}}
        for name, fields in ANSWERS.items()
    }
    about = {"title": "vmoe-export", "version": endpoints.VERSION}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": {"schemas": schemas}}


def _operation(endpoint: Endpoint, path: str) -> dict[str, Any]:
    answered = _content(endpoint.answer, MEDIA_TYPES.get(endpoint.answer, (JSON,)))
    refused = {"description": "refused", "content": _content("error", (JSON,))}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": path.strip("/").translate(str.maketrans("/.", "__", "{}")),
        "responses": {"200": {"description": "answered", "content": answered}, "default": refused},
    }
    parameters = [
        {"name": field.name, "in": "query", "schema": _field_schema(field)}
        for field in OBJECTS.get(endpoint.request, ())
        if field.in_query
    ]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.request:
        media_types = MEDIA_TYPES.get(endpoint.request, (JSON,))
        operation["requestBody"] = {"content": _content(f"{endpoint.request}_request", media_types)}
        operation["requestBody"]["required"] = any(field.required for field in OBJECTS[endpoint.request])
    return operation


def _content(kind: str, media_types: tuple[str, ...]) -> dict[str, Any]:
    """Return the schema of a request or reply body for each content type.

    For any type other than JSON, the schema only says that the body is a string.
    """
    return {each: {"schema": _schema(kind) if each == JSON else {"type": "string"}} for each in media_types}


def _schema(kind: str) -> dict[str, Any]:
    """Return the JSON schema of a type. `kind` is a `Field.type` or a name in ANSWERS."""
    if kind.endswith("[]"):
        return {"type": "array", "items": {"anyOf": [_schema(kind.removesuffix("[]")), _NULL]}}
    return _TYPES.get(kind) or ({} if kind == "any" else {"$ref": f"#/components/schemas/{kind}"})


def _object_schema(name: str) -> dict[str, Any]:
    fields = OBJECTS[name]
    properties = {
        field.name: _field_schema(field) if field.required else {"anyOf": [_field_schema(field), _NULL]} for field in fields
    }
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required := [field.name for field in fields if field.required]:
        schema["required"] = required
    return schema | ({"additionalProperties": False} if name in endpoints.EXACT_OBJECTS else {})


def _field_schema(field: Field) -> dict[str, Any]:
    schema = _schema(f"{field.type}_request" if field.type in OBJECTS else field.type)
    if field.type == "whole":
        schema = schema | {"minimum": field.minimum, "maximum": endpoints.MAX_WHOLE}
    elif field.minimum:
        schema = schema | {"minLength": field.minimum}
    if field.choices:
        schema = schema | {"enum": list(field.choices)}
    if field.items is not None:
        fewest, most = field.items
        schema = {"type": "array", "items": schema, "minItems": fewest, "maxItems": most}
    return schema if field.default in (None, [], {}) else schema | {"default": field.default}
