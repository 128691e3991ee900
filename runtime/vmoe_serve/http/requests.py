"""Checks requests against the table of fields, and defines the error that refuses a request."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from vmoe_runtime import VmoeError
from vmoe_runtime.errors import shown
from vmoe_serve import endpoints
from vmoe_serve.endpoints import Field, Refusal


class RequestError(VmoeError):
    """An error that refuses a request.

    Attributes:
        status: HTTP status of the reply.
    """

    def __init__(self, refusal: Refusal, *facts: object) -> None:
        super().__init__(refusal.message.format(*facts))
        self.status = refusal.status


def read_json(body: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object. Fields whose value is null are left out.

    Raises:
        RequestError: the body is not a JSON object.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(endpoints.NO_JSON, " ".join(str(error).split())[:100]) from None
    if not isinstance(values, dict):
        raise RequestError(endpoints.NO_OBJECT)
    return {name: value for name, value in values.items() if value is not None}


def read_query(name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that a URL's query contains. They belong to the object `name` in OBJECTS.

    Raises:
        RequestError: the query contains a name that is not a field of this object, or a field that is not allowed in
            queries.
    """
    fields = {field.name: field for field in endpoints.OBJECTS[name] if field.in_query}
    _check_known(query, fields)
    is_whole = {key: fields[key].type == "whole" and text.isdecimal() for key, text in query.items()}
    return {key: int(text[:19]) if is_whole[key] else text for key, text in query.items()}


def read_object(
    name: str, values: Mapping[str, Any], where: str = "", most_items: int = endpoints.MAX_WHOLE
) -> dict[str, Any]:
    """Check the fields of an object in OBJECTS, and return the fields. Missing fields get their default values.

    Args:
        name: name of the object in OBJECTS.
        values: the client's values.
        where: path of the object in the request, for error messages.
        most_items: maximum number of items in each list of the object. If the table gives a lower maximum for a list, the
            lower maximum applies.

    Raises:
        RequestError: a required field is missing, or a field has a wrong value. In the objects in EXACT_OBJECTS, an unknown
            field is an error too.
    """
    fields = {field.name: field for field in endpoints.OBJECTS[name]}
    if name in endpoints.EXACT_OBJECTS:
        _check_known(values, fields, where)
    return {key: _value(field, values.get(key), where + key, most_items) for key, field in fields.items()}


def _check_known(values: Mapping[str, Any], known: Mapping[str, Field], where: str = "") -> None:
    for name in (name for name in values if name not in known):
        raise RequestError(endpoints.UNKNOWN_FIELD, shown(where + name), ", ".join(known))


def _value(field: Field, value: Any, where: str, most_items: int) -> Any:
    value = field.default if value is None else value
    if value is None and field.required:
        raise RequestError(endpoints.NO_FIELD, where)
    if value is None:
        return None
    if field.items is None:
        return _item(field, value, where)
    fewest, most = field.items[0], min(field.items[1], most_items)
    if not isinstance(value, list) or not fewest <= len(value) <= most:
        raise RequestError(endpoints.WRONG_LIST, where, fewest, most)
    return [_item(field, item, f"{where}.{index}") for index, item in enumerate(value)]


def _is_text(field: Field, value: str) -> bool:
    """Return whether the field accepts the string `value`.

    No field accepts a string with a lone surrogate, because no reply could contain it.
    """
    return len(value) >= field.minimum and value in (field.choices or (value,)) and not re.search("[\ud800-\udfff]", value)


def _item(field: Field, value: Any, where: str) -> Any:
    if field.type in endpoints.OBJECTS and isinstance(value, dict):
        return read_object(field.type, value, f"{where}.")
    if field.type == "picture":
        with suppress(TypeError, ValueError):
            return value if isinstance(value, bytes) else base64.b64decode(value, validate=True)
    is_right = {
        "any": True,
        "flag": isinstance(value, bool),
        "whole": type(value) is int and field.minimum <= value <= endpoints.MAX_WHOLE,
        "text": isinstance(value, str) and _is_text(field, value),
    }
    if is_right.get(field.type, False):
        return value
    raise RequestError(endpoints.WRONG_FIELD, where, field.takes, shown(value))
