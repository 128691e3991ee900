"""Good and bad bundles, each made from a kept one by one change: what its graphs may be.

A case is one line: `bad(NAME, CHANGE, WORDS...)` or `good(NAME, CHANGE)`. Both readers, Python's and C++'s, must refuse a
bad one in a sentence that holds the words.
"""

from __future__ import annotations

import onnx
from bundle_changes import (
    CANONICAL,
    INLINED,
    MANIFEST,
    WEIGHTS,
    Cases,
    appended,
    chunk,
    graph,
    hide_in_default,
    hide_in_function,
    hide_in_list,
    hide_in_node,
    hide_in_sparse,
    hide_in_subgraph,
    hide_in_training,
    holds,
    more_input,
    nested,
    opset,
    port,
    reads,
    says,
    two_locations,
    without,
)
from damaged_files import drop, put
from onnx import TensorProto

CASES = Cases()
good, bad = CASES.good, CASES.bad

# ---- graphs: what they read


for _graph in (CANONICAL, INLINED):
    bad(f"data above the bundle in {_graph}", reads(_graph, location="../x"), _graph, "'../x'")
bad("data at an absolute path", reads(location="/etc/passwd"), INLINED, "'/etc/passwd'")
bad("data in the manifest", reads(location=MANIFEST), INLINED, MANIFEST)
bad("data behind a detour", reads(location=f"./{WEIGHTS}"), INLINED, f"./{WEIGHTS}")
bad("data at a memory address", reads(location="*/_ORT_MEM_ADDR_/*", offset="4096"), INLINED, "_ORT_MEM_ADDR_")
bad("data in a file without a name", reads(location=""), INLINED, "''")
bad("data on two lines", reads(location="a\nb"), INLINED, "reads")
bad("data past the end", reads(offset=str(2**40)), INLINED, "past the end")
bad("data over the end", reads(length=str(2**40)), INLINED, "past the end")
bad("data before the start", reads(offset="-4"), INLINED, "'-4'")
bad("data at an offset with underscores", reads(offset="1_0"), INLINED, "'1_0'")
bad("data at an offset with a space", reads(offset=" 1"), INLINED, "' 1'")
bad("data at an offset of Arabic digits", reads(offset="\u0661"), INLINED, "number of bytes")
bad("data of 10^19 bytes", reads(length="9" * 19), INLINED, "number of bytes")
good("data at the first byte", reads())
good("data at the last byte", lambda b: reads(offset=str((b / WEIGHTS).stat().st_size - 4))(b))


for _hide in (
    hide_in_node,
    hide_in_list,
    hide_in_subgraph,
    hide_in_function,
    hide_in_default,
    hide_in_sparse,
    hide_in_training,
):
    bad(f"a path out, {_hide.__name__.replace('_', ' ')}", graph(_hide, INLINED), INLINED, "'../x'")

# ---- graphs: their bytes


_ENTRY = onnx.StringStringEntryProto(key="location", value="../x").SerializeToString()
_NAMED = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
bad("a graph that is text", holds(INLINED, b"this is no graph"), INLINED)
bad("a graph nested 10,000 levels deep", holds(INLINED, nested(10_000)), INLINED, "nested too deeply")
bad("a group of protobuf", holds(INLINED, b"\x3b\x3c"), INLINED, "wire type 3")
bad("a field longer than the file", holds(INLINED, chunk(7, b"x" * 100)[:50]), INLINED, "cut short")
bad("an endless number", holds(INLINED, b"\xff" * 50), INLINED, "64 bits")
bad("a number of 65 bits", appended(b"\x08" + b"\xff" * 9 + b"\x02"), INLINED, "64 bits")
good("a number of 64 bits", appended(b"\x28" + b"\xff" * 9 + b"\x01"))
bad(
    "a field number of more than 29 bits",
    appended(chunk(7, chunk(5, _NAMED.SerializeToString() + chunk(13, _ENTRY, 1 << 32)))),
    INLINED,
    "29 bits",
)
bad("a tensor with two locations", graph(two_locations, INLINED), INLINED, "contradicts itself")
good("a second graph without anything", appended(chunk(7, b"")))

for _version in (1001, 2**31 - 1, -1):
    bad(f"operator set {_version}", graph(lambda m, v=_version: opset(m, v)), CANONICAL, "above 1000")
    bad(f"a function's opset {_version}", graph(lambda m, v=_version: opset(m.functions[-1], v)), CANONICAL, "above 1000")

# ---- graphs: their inputs and outputs against the manifest, which is compared once a runtime has loaded them

INTERFACES = Cases()
bad = INTERFACES.bad

_EXPERT = "encoderblock_1/expert"
bad("a manifest of uint8 images", says(put("input/dtype", "uint8")), "image", "float32", "uint8")
bad("a manifest of other height", says(put("input/height", 16), put("preprocessing/steps", "resize(16,12)")), "16,12,3")
bad("a manifest of features", says(put("output/name", "features")), "features", "nothing")
bad("a manifest of 8 classes", says(put("output/size", 8), drop("class_names")), "logits", "[N,8]")
bad("a manifest of a dense model", says(put("routing", None), put("profiles", [])), "takes", "capacity", "bpr")
bad("a manifest of another MoE layer", says(put("routing/layers", ["encoderblock_0"])), "encoderblock_0", "nothing")
bad(
    "a manifest of two MoE layers",
    says(
        put("routing/layers", ["encoderblock_0", "encoderblock_1"]),
        lambda m: [p.update(capacity=p["capacity"] * 2) for p in m["profiles"]],
    ),
    "capacity",
    "int64[2]",
)
bad("other classes of an ensemble", says(put("output/size", 8), drop("class_names")), "[N,2,8]", base="v3-ensemble")
bad("a logits of an ensemble's members", says(put("output/name", "logits")), "logits", "nothing", base="v3-ensemble")
bad("other slots of a Soft MoE", says(put("routing/slots_per_expert", 2)), "10,4,2", base="v3-soft")
for _graph in (CANONICAL, INLINED):
    bad(f"{_graph} with an input more", graph(more_input("more"), _graph), _graph, "takes", "more")
    bad(f"{_graph} without experts", graph(without(_EXPERT), _graph), _graph, _EXPERT, "nothing")
bad("an image of a fixed height", graph(port("image", dim=(1, 16)), INLINED), INLINED)
bad("a capacity in int32", graph(port("capacity", TensorProto.INT32), INLINED), INLINED)
