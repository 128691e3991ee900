"""The fields of a manifest: the allowed values of each field, and the routing kinds that use the field.

Python and C++ each have a bundle reader, and both readers follow the tables in this module. `tools/cpp_headers.py` writes
the tables as a C++ header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, IMAGE_INPUT, INLINED_GRAPH, MERGING_GRAPH, OUTPUTS, PROBABILITIES
from vmoe_runtime.capacity import ROUNDINGS
from vmoe_runtime.precisions import PRECISIONS, TENSORRT_PRECISIONS
from vmoe_runtime.routing_kinds import ROUTING_KINDS, SETTING_KINDS, SettingKind
from vmoe_runtime.settings import EXPERT_LIMIT, ROWS, SettingRow

MAX_MANIFEST_BYTES = 16 << 20
MAX_GRAPH_BYTES = 64 << 20
MAX_NAME = 121
"""Maximum length in characters of a file's name, and of any text that the patterns below match."""
FILE_PATTERN = f"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_NAME - 1}}}"
SHA256_PATTERN = "[0-9a-f]{64}"
BLOCK_PATTERN = "encoderblock_[0-9]{1,6}"
GROUP_PATTERN = "image|batch|(tokens:)?([1-9][0-9]{0,8})"
MAX_MOE_LAYERS = 1_000
MAX_BLOCK = 999_999
_MAX_PIXELS = 65_536  # largest allowed height, width and number of channels
_MAX_BATCH_MULTIPLE = 65_536
MAX_OUTPUT_SIZE = 2**24  # callers allocate this many floats per image; real outputs are far smaller
_MAX_SLOTS = 65_536  # maximum number of slots per expert and group in Soft MoE
_MAX_INT32 = 2**31 - 1  # graphs store the numbers of tokens and slots in int32
_MAX_FILE_BYTES = 2**53

FieldType = Literal["object", "list", "text", "number", "flag", "whole", "count"]
"""In the words of JSON: an object, an array, a string, a number and a boolean. The last two are numbers without a decimal
point: "whole" is at least 1, "count" at least 0."""

_TOP_K = ROWS["k"].kinds
_WITH_CAPACITY = ROWS["capacity"].kinds
_MERGING = ROWS["merge"].kinds
_SINGLE = tuple(kind for kind in SETTING_KINDS if kind != "ensemble")


class Field(NamedTuple):
    """A field of an object in the manifest.

    Attributes:
        path: key of the field, preceded by the key of its parent object, as in "input.height". If an optional parent is
            missing, its fields are not checked.
        type: type of the value.
        most: largest allowed value, if the field is a whole number.
        choices: the allowed strings; empty if any string is allowed.
        optional: whether the field may be missing or null. A missing field means the same as null.
        kinds: the routing kinds that use the field. With any other routing kind, the field must be missing or null.
    """

    path: str
    type: FieldType
    most: int = 0
    choices: tuple[str, ...] = ()
    optional: bool = False
    kinds: tuple[SettingKind, ...] = SETTING_KINDS


MANIFEST_FIELDS = (
    Field("model", "object"),
    Field("input", "object"),
    Field("input.name", "text", choices=(IMAGE_INPUT,)),
    Field("input.dtype", "text", choices=("float32", "uint8")),
    Field("input.height", "whole", _MAX_PIXELS),
    Field("input.width", "whole", _MAX_PIXELS),
    Field("input.channels", "whole", _MAX_PIXELS),
    Field("preprocessing", "object"),
    Field("preprocessing.steps", "text"),
    Field("output", "object"),
    Field("output.name", "text", choices=OUTPUTS),
    Field("output.size", "whole", MAX_OUTPUT_SIZE),
    Field("output.tokens", "whole", MAX_OUTPUT_SIZE, optional=True, kinds=_SINGLE),
    Field("layers", "object", optional=True, kinds=_SINGLE),
    Field("layers.blocks", "list", kinds=_SINGLE),
    Field("layers.tokens", "whole", MAX_OUTPUT_SIZE, kinds=_SINGLE),
    Field("layers.size", "whole", MAX_OUTPUT_SIZE, kinds=_SINGLE),
    Field("class_names", "list", optional=True),
    Field("probabilities", "text", choices=PROBABILITIES, optional=True),
    Field("precision", "text", choices=PRECISIONS),
    Field("batch_multiple", "whole", _MAX_BATCH_MULTIPLE),
    Field("image_tokens", "whole", _MAX_INT32, optional=True, kinds=_MERGING),
    Field("routing", "object", optional=True),
    Field("routing.layers", "list"),
    Field("routing.num_experts", "whole", EXPERT_LIMIT),
    Field("routing.layer_experts", "list", optional=True),
    Field("routing.group", "text"),
    Field("routing.group_tokens", "whole", _MAX_INT32),
    Field("routing.rounding", "text", choices=ROUNDINGS, kinds=_WITH_CAPACITY),
    Field("routing.capacity_multiple_of", "whole", _MAX_INT32, kinds=_WITH_CAPACITY),
    Field("routing.slots_per_expert", "whole", _MAX_SLOTS, kinds=("soft",)),
    Field("routing.ensemble_size", "whole", EXPERT_LIMIT, optional=True, kinds=_TOP_K),
    Field("profiles", "list"),
    Field("graphs", "object"),
    Field("graphs.canonical", "text", choices=(CANONICAL_GRAPH,)),
    Field("graphs.inlined", "text", choices=(INLINED_GRAPH,)),
    Field("graphs.merging", "text", choices=(MERGING_GRAPH,), optional=True, kinds=_MERGING),
    Field("tensorrt", "object", optional=True),
    Field("tensorrt.precision", "text", choices=TENSORRT_PRECISIONS),
    Field("tensorrt.graphs", "object"),
    Field("files", "object"),
)
"""The fields of the manifest, except its format, its version and KIND_FIELDS."""

KIND_FIELDS = (
    Field("routing", "object", optional=True),
    Field("routing.kind", "text", choices=ROUTING_KINDS),
)
"""Fields to check before `kind_of` reads the routing kind, which determines the other fields."""


def _profile_field(row: SettingRow) -> Field:
    """Return the field for one setting in a profile's entry.

    Settings that control merging are optional: even if a routing kind supports merging, some of its models may have no
    tokens to merge.
    """
    if row.type != "whole":
        return Field(row.stored, "flag" if row.type == "flag" else "number", kinds=row.kinds)
    least, most = row.range or (1, EXPERT_LIMIT)
    return Field(row.stored, "whole" if least else "count", min(most, EXPERT_LIMIT), optional=row.merging, kinds=row.kinds)


PROFILE_FIELDS = (
    Field("name", "text"),
    *map(_profile_field, ROWS.values()),
    Field("capacity", "list", kinds=_WITH_CAPACITY),
)

FILE_FIELDS = (Field("sha256", "text"), Field("bytes", "whole", _MAX_FILE_BYTES))

_TYPES: Mapping[FieldType, tuple[type[Any], ...]] = {
    "object": (dict,),
    "list": (list,),
    "text": (str,),
    "number": (int, float),
    "flag": (bool,),
    "whole": (int,),
    "count": (int,),
}


def kind_of(manifest: Mapping[str, Any]) -> SettingKind:
    """Return the routing kind of a manifest. The fields in KIND_FIELDS must have been checked."""
    routing = manifest.get("routing")
    if routing is None:
        return "dense"
    kind: SettingKind = routing["kind"]
    return "ensemble" if kind == "top-k" and routing.get("ensemble_size") not in (None, 1) else kind


def check_fields(content: Mapping[str, Any], fields: Iterable[Field], kind: SettingKind) -> None:
    """Refuse an object whose fields don't match the table `fields`.

    Raises:
        ValueError: a field is wrong; the message contains its key.
    """
    for field in fields:
        parent, _, key = field.path.rpartition(".")
        holder = content.get(parent) if parent else content
        if holder is None:
            continue
        value = holder.get(key)
        if kind not in field.kinds and value is not None:
            raise ValueError(f"'{key}' means nothing with {kind}")
        if value is None and (field.optional or kind not in field.kinds):
            continue
        _check_value(key, value, field)


def _check_value(key: str, value: Any, field: Field) -> None:
    # In Python, a bool is also an int. In a manifest, a boolean is never a number.
    is_of_type: bool = isinstance(value, _TYPES[field.type])
    if not is_of_type or isinstance(value, bool) != (field.type == "flag"):
        raise ValueError(f"'{key}' is missing or of the wrong type")
    least = {"whole": 1, "count": 0}.get(field.type)
    if least is not None and not least <= value <= field.most:
        raise ValueError(f"'{key}' is {value!s:.40}, which is out of range, {least} to {field.most}")
    if field.choices and value not in field.choices:
        raise ValueError(f"'{key}' is {value!r:.60}, not one of {', '.join(field.choices)}")
