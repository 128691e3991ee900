"""Good and bad bundles, each made from a kept one by one change: what its graphs may be.

A case is one line: `bad(NAME, CHANGE, WORDS...)` or `good(NAME, CHANGE)`. Both readers, Python's and C++'s, must refuse a
bad one in a sentence that holds the words.
"""

from __future__ import annotations

import json

import onnx
from bundle_changes import (
    BUNDLES,
    CANONICAL,
    INLINED,
    MANIFEST,
    TENSORRT,
    WEIGHTS,
    Cases,
    appended,
    both,
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
    nested,
    opset,
    port,
    ports,
    profile,
    reads,
    renamed,
    reshaped,
    retyped,
    says,
    two_locations,
)
from damaged_files import drop, put
from onnx import TensorProto, helper

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
bad("a graph that is empty", holds(INLINED, b"\x08\x0a"), INLINED, "takes")
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
bad("a location that is no text", appended(chunk(7, chunk(5, chunk(13, chunk(1, b"\xff"))))), INLINED)
good("a second graph without anything", appended(chunk(7, b"")))
bad("a second graph with one more input", appended(chunk(7, chunk(11, chunk(1, b"more")))), INLINED, "takes", "more")
bad("an input twice", graph(lambda m: m.graph.input.append(m.graph.input[0])), CANONICAL, "'image' stands there twice")
bad("an input without a name", graph(lambda m: m.graph.input.add()), CANONICAL, "takes")
bad("a weight twice", graph(lambda m: m.graph.initializer.append(m.graph.initializer[0])), CANONICAL, "twice")
bad("a graph with a name that is no text", appended(chunk(7, chunk(11, chunk(1, b"\xff")))), INLINED)

for _version in (1001, 2**31 - 1, -1):
    bad(f"operator set {_version}", graph(lambda m, v=_version: opset(m, v)), CANONICAL, "above 1000")
    bad(f"a function's opset {_version}", graph(lambda m, v=_version: opset(m.functions[-1], v)), CANONICAL, "above 1000")

# ---- graphs: their inputs, outputs and weights against the manifest


_SLOT, _WEIGHT, _ROUTER = "encoderblock_1/slot", "encoderblock_1/weight", "Encoder/encoderblock_1/Moe/Router/dense/kernel"
bad("a manifest of uint8 images", says(put("input/dtype", "uint8")), "image", "float32", "uint8")
bad("a manifest of other height", says(put("input/height", 16)), "image", "12,12,3", "16,12,3")
bad("a manifest of other width", says(put("input/width", 16)), "image", "12,16,3")
bad("a manifest of one channel", says(put("input/channels", 1)), "image", "12,12,1")
bad("a manifest of features", says(put("output/name", "features")), "features", "nothing")
bad("a manifest of 8 classes", says(put("output/size", 8), drop("class_names")), "logits", "[N,8]")
bad("a manifest of float32 images for uint8", says(put("input/dtype", "float32")), "image", "uint8", base="v3-dense")
bad("a manifest of a dense model", says(put("routing", None), put("profiles", [])), "takes", "capacity", "bpr")
bad(
    "a dense model with routing",
    both(
        says(
            lambda m: m.update(
                {k: json.loads((BUNDLES / "v3-plain" / MANIFEST).read_bytes())[k] for k in ("routing", "profiles")}
            )
        )
    ),
    "takes",
    "capacity",
    base="v3-dense",
)
bad("a manifest of another MoE layer", says(put("routing/layers", ["encoderblock_0"])), "encoderblock_0")
bad(
    "a manifest of two MoE layers",
    says(
        put("routing/layers", ["encoderblock_0", "encoderblock_1"]),
        lambda m: [p.update(capacity=p["capacity"] * 2) for p in m["profiles"]],
    ),
    "capacity",
    "int64[2]",
)
bad(
    "a manifest of 8 experts",
    says(put("routing/num_experts", 8), put("profiles", profile(2))),
    "8 experts",
    "encoderblock_1",
)
bad(
    "a manifest of 20 tokens",
    says(
        put("routing/group_tokens", 20),
        put("profiles", profile(5)),
    ),
    "slot",
    "20",
)
for _graph in (CANONICAL, INLINED):
    bad(
        f"{_graph} with an input more",
        graph(lambda m: m.graph.input.append(helper.make_tensor_value_info("more", 1, [1])), _graph),
        _graph,
        "takes",
        "more",
    )
    bad(f"{_graph} without k", graph(lambda m: m.graph.input.remove(ports(m)["k"]), _graph), _graph, "takes")
    bad(
        f"{_graph} without routing",
        graph(lambda m: m.graph.output.remove(ports(m)[_SLOT]), _graph),
        _graph,
        _SLOT,
        "nothing",
    )
bad("an image of int32", graph(port("image", TensorProto.INT32)), CANONICAL, "image", "int32")
bad("an image of a fixed batch", graph(port("image", dim=(0, 1))), CANONICAL, "image", "[1,12,12,3]")
bad("an image of any height", graph(port("image", dim=(1, "h"))), CANONICAL, "image", "[N,N,12,3]")
bad(
    "an image without a shape",
    graph(lambda m: ports(m)["image"].type.tensor_type.ClearField("shape")),
    CANONICAL,
    "image",
    "[?]",
)
bad("an image without a type", graph(lambda m: ports(m)["image"].ClearField("type")), CANONICAL, "image")
bad(
    "an image that is a sequence",
    graph(lambda m: ports(m)["image"].type.sequence_type.elem_type.tensor_type.SetInParent()),
    CANONICAL,
    "image",
)
bad("an image of another name", graph(renamed("image", "picture")), CANONICAL, "takes", "picture")
bad("a capacity for two layers", graph(port("capacity", dim=(0, 2))), CANONICAL, "capacity", "int64[2]")
bad("a capacity in int32", graph(port("capacity", TensorProto.INT32)), CANONICAL, "capacity", "int32")
bad("a k of two numbers", graph(port("k", dim=(0, 2))), CANONICAL, "'k'")
bad("a bpr in bool", graph(port("bpr", TensorProto.BOOL)), CANONICAL, "'bpr'")
bad("logits of 8 classes", graph(port("logits", dim=(1, 8))), CANONICAL, "logits", "[N,8]")
bad("logits of any size", graph(port("logits", dim=(1, "n"))), CANONICAL, "logits")
bad("logits in float16", graph(port("logits", TensorProto.FLOAT16)), CANONICAL, "logits")
bad("logits of a fixed batch", graph(port("logits", dim=(0, 4))), CANONICAL, "logits")
bad("slots in int64", graph(port(_SLOT, TensorProto.INT64)), CANONICAL, _SLOT, "int64")
bad("slots of other tokens", graph(port(_SLOT, dim=(1, 11))), CANONICAL, _SLOT, "11")
bad("slots of a fixed k", graph(port(_SLOT, dim=(2, 1))), CANONICAL, _SLOT)
bad("weights of routing in float64", graph(port(_WEIGHT, TensorProto.DOUBLE)), CANONICAL, _WEIGHT)
bad("a TensorRT graph of any k", graph(port(_SLOT, dim=(2, "k")), TENSORRT), TENSORRT, _SLOT, base="v3-bf16")
bad(
    "a TensorRT graph that takes k",
    graph(lambda m: m.graph.input.append(helper.make_tensor_value_info("k", 7, [1])), TENSORRT),
    TENSORRT,
    "takes",
    base="v3-bf16",
)
good("an output more", graph(lambda m: m.graph.output.append(helper.make_tensor_value_info("more", 1, [1]))))
good("other names of dimensions", graph(port("image", dim=(0, "n"))))
good(
    "other documentation of graph and nodes",
    graph(
        lambda m: (
            setattr(m, "doc_string", "x"),
            m.metadata_props.add(key="a", value="b"),
            m.graph.metadata_props.add(key="a", value="b"),
        )
    ),
)
good("outputs in another order", graph(lambda m: m.graph.output.append(m.graph.output.pop(0))))
bad("a router of 5 experts", graph(reshaped(_ROUTER, 24, 5)), CANONICAL, "5", "4 experts")
bad("a router of one dimension", graph(reshaped(_ROUTER, 96)), CANONICAL, "96", "4 experts")
bad(
    "a router in another block",
    graph(
        lambda m: m.graph.initializer.add(name="Encoder/encoderblock_0/Moe/Router/dense/kernel", data_type=1, dims=[24, 4])
    ),
    CANONICAL,
    "encoderblock_0",
)
bad(
    "no router",
    graph(lambda m: m.graph.initializer.remove(next(t for t in m.graph.initializer if t.name == _ROUTER))),
    CANONICAL,
    "no router",
    "encoderblock_1",
)
bad(
    "one kernel in bfloat16",
    graph(retyped("Encoder/encoderblock_0/Mlp/Dense_0/kernel", 16)),
    CANONICAL,
    "Dense_0/kernel",
    "bfloat16",
)
bad("the head in bfloat16", graph(retyped("head/kernel", 16)), CANONICAL, "head/kernel", "bfloat16", base="v3-bf16")
bad(
    "one expert in float32",
    graph(retyped("Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel/2", 1), INLINED),
    INLINED,
    "kernel/2",
    "float32",
    base="v3-bf16",
)
good(
    "another constant in float64",
    graph(lambda m: m.graph.initializer.add(name="pi", data_type=TensorProto.DOUBLE, double_data=[3.14])),
)
bad(
    "unsigned weights",
    graph(retyped("embedding/kernel", TensorProto.UINT8)),
    CANONICAL,
    "embedding/kernel",
    "uint8",
    base="v3-int8",
)
