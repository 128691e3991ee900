"""The fields of a manifest: what each may hold, and in which routing kinds it stands.

Both readers of bundles are interpreters of these tables: C++ has them as a header (`tools/cpp_headers.py`).
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
"""Characters of a file's name, and of all that the patterns match."""
FILE_PATTERN = f"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_NAME - 1}}}"
SHA256_PATTERN = "[0-9a-f]{64}"
BLOCK_PATTERN = "encoderblock_[0-9]{1,6}"
GROUP_PATTERN = "image|batch|(tokens:)?([1-9][0-9]{0,8})"
MAX_MOE_LAYERS = 1_000
MAX_BLOCK = 999_999
_MAX_PIXELS = 65_536  # of a side, and channels
_MAX_BATCH_MULTIPLE = 65_536
MAX_OUTPUT_SIZE = 2**24  # callers allocate this many floats per image; no head comes near it, nor the tokens of an image
_MAX_SLOTS = 65_536  # of an expert and group in Soft MoE
_MAX_INT32 = 2**31 - 1  # graphs count tokens and slots in int32
_MAX_FILE_BYTES = 2**53

FieldType = Literal["object", "list", "text", "number", "flag", "whole", "count"]
"""What JSON calls an object, an array, a string, a number and a boolean; a whole number is written without a point, and is 1
or more, or as a count 0."""

_TOP_K = ROWS["k"].kinds
_WITH_CAPACITY = ROWS["capacity"].kinds
_MERGING = ROWS["merge"].kinds
_SINGLE = tuple(kind for kind in SETTING_KINDS if kind != "ensemble")


class Field(NamedTuple):
    """A field.

    Attributes:
        path: its key behind those of the objects that it is in, as in "input.height"; an object that is missing and may be
            has no fields.
        type: of its value.
        most: the largest whole number.
        choices: the texts that it may be; empty for any.
        optional: it may be missing or null, which is the same.
        kinds: the kinds that have it; in others it must be missing or null.
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
"""Of the whole manifest, beside its format and version."""

KIND_FIELDS = (
    Field("routing", "object", optional=True),
    Field("routing.kind", "text", choices=ROUTING_KINDS),
)
"""What says which kinds' fields there are."""


def _profile_field(row: SettingRow) -> Field:
    """The field of a profile's entry that holds a setting. Not every model of a kind that can merge has tokens to merge."""
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
    """The kind of a manifest whose KIND_FIELDS were checked."""
    routing = manifest.get("routing")
    if routing is None:
        return "dense"
    kind: SettingKind = routing["kind"]
    return "ensemble" if kind == "top-k" and routing.get("ensemble_size") not in (None, 1) else kind


def check_fields(content: Mapping[str, Any], fields: Iterable[Field], kind: SettingKind) -> None:
    """Refuses an object whose fields are not what a table says.

    Raises:
        ValueError: with the key, and what is wrong.
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
    # A bool is an int to Python, never to a manifest.
    is_of_type: bool = isinstance(value, _TYPES[field.type])
    if not is_of_type or isinstance(value, bool) != (field.type == "flag"):
        raise ValueError(f"'{key}' is missing or of the wrong type")
    least = {"whole": 1, "count": 0}.get(field.type)
    if least is not None and not least <= value <= field.most:
        raise ValueError(f"'{key}' is {value!s:.40}, which is out of range, {least} to {field.most}")
    if field.choices and value not in field.choices:
        raise ValueError(f"'{key}' is {value!r:.60}, not one of {', '.join(field.choices)}")
