"""Good and bad bundles, each of which is a test bundle with one change to its files or graphs.

A case is one line: `bad(NAME, CHANGE, WORDS...)` or `good(NAME, CHANGE)`. `bad_values(FIELD, VALUES, WORDS...)` makes one
bad case per value. The Python reader and the C++ reader must refuse a bad bundle with a message that contains WORDS.
"""

from __future__ import annotations

import os
import shutil

import onnx
from bundle_changes import (
    CANONICAL,
    INLINED,
    MANIFEST,
    TENSORRT,
    WEIGHTS,
    Cases,
    appended,
    both,
    calling,
    chunk,
    field,
    flipped,
    graph,
    hide_in_default,
    hide_in_function,
    hide_in_list,
    hide_in_node,
    hide_in_sparse,
    hide_in_subgraph,
    hide_in_training,
    holds,
    linked,
    listed,
    more_input,
    nested,
    nothing,
    opset,
    port,
    reads,
    replaced,
    says,
    swap,
    text,
    two_locations,
    without,
)
from damaged_files import drop, put
from onnx import TensorProto

CASES = Cases()
good, bad, bad_values = CASES.good, CASES.bad, CASES.bad_values

# ---- unchanged bundles, and differences that readers accept

for _kept in ("plain", "fp32", "bf16", "int8", "dense", "choice", "ensemble", "soft"):
    good(f"v3-{_kept} as it is", nothing, base=f"v3-{_kept}")
good("a field that nobody knows", says(put("colour", {"a": [1.5, None]})))
good("a field inside that nobody knows", says(put("routing/kindness", 1), put("profiles/0/speed", "high")))
good("without the fields for people", says(*(drop(k) for k in ("producer", "source", "flops_per_image", "validation"))))
good(
    "fields for people of other types",
    says(put("producer", 1), put("source", []), put("flops_per_image", None), put("validation", "no")),
)
good("without class names", says(drop("class_names")))
good("class names that are empty", says(put("class_names", [""] * 7)))
good("tensorrt that is null", says(put("tensorrt", None)))
good("one graph for TensorRT of two", says(drop("tensorrt/graphs/c0.3-k2")), base="v3-bf16")
good(
    "a capacity ratio that is a whole number",
    says(put("profiles/2/capacity_ratio", 1), put("profiles/2/name", "c1-k1"), put("profiles/2/capacity", [3])),
)
good("one profile", says(lambda m: m["profiles"].__delitem__(slice(1, None))))
good("profiles in another order", says(lambda m: m["profiles"].reverse()))
good("an effective ratio of another value", says(put("profiles/0/effective_ratio", 9)))
good("group image written as 1", says(put("routing/group", "1")))
good("group of the whole batch", says(put("routing/group", "batch"), put("batch_multiple", 4)))
good("group tokens:10", says(put("routing/group", "tokens:10")))
good("group of 4 images", says(put("routing/group", "4"), put("batch_multiple", 4)))
good("a file more", both(lambda b: (b / "notes.txt").write_text("x"), holds("notes.txt", b"hello")))
good("a file that the manifest doesn't name", lambda b: (b / "stray").write_bytes(b"x"))
good("a folder that the manifest doesn't name", lambda b: (b / "stray").mkdir())
good("a file name of 121 characters", holds("x" * 121, b"1"))
good("a graph that the manifest gives no role", holds("other.onnx", b"\x08\x0a"))
good(
    "spaces and line breaks around", lambda b: (b / MANIFEST).write_bytes(b"\r\n\t " + (b / MANIFEST).read_bytes() + b"\n ")
)
good("escapes in text", swap(b'"ape"', b'"\\u00e4\\ud83d\\ude00\\/"'))
for _value in (b"[" * 63 + b"]" * 63, b"1.7976931348623157e308", b"1e-999", b"9" * 300, b"-0", b'"\x7f"'):
    good(f"a field of {len(_value)} bytes, {_value[:20]!r}", field(_value))

# ---- the manifest's text

for _text in (b"", b"[]", b"null", b'{"format": "vmoe-bundle", ', b"\xff\xfe\x00", b"\x80\x04]\x94."):
    bad(f"a manifest of {_text!r}", text(_text), MANIFEST)
bad("17 MiB of spaces", text(b" " * (17 << 20)), MANIFEST, "16 MiB")
bad("100,000 lists", text(b"[" * 100_000), MANIFEST)
bad("65 levels", field(b"[" * 64 + b"]" * 64), MANIFEST, "nested too deeply")
bad("65 levels of objects", field(b'{"a":' * 64 + b"1" + b"}" * 64), MANIFEST, "nested too deeply")
bad("a byte order mark", swap(b"{", b"\xef\xbb\xbf{"), MANIFEST)
bad("UTF-16", lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_text().encode("utf-16")), MANIFEST)
bad("UTF-32", lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_text().encode("utf-32-le")), MANIFEST)
bad("a key twice", swap(b'"format_version"', b'"format": "vmoe-bundle", "format_version"'), MANIFEST, "'format'")
bad("a key twice inside", field(b'{"a": 1, "b": {"c": 1, "\\u0063": 2}}'), MANIFEST, "'c'")
for _value in (
    b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"',  # invalid UTF-8: a bare byte, an overlong sequence and a surrogate
    b'"\\ud800"', b'"\\udc00"', b'{"\\ud800": 1}',  # unpaired surrogates
    b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b"-1e309", b"9" * 400, b"9" * 5000,  # not finite doubles
    b"01", b"+1", b".5", b"1.", b"0x10", b"1_0", "\u0661".encode(),  # not JSON numbers
    b"'a'", b'"a\nb"', b'"a\x00b"', b'"\\x41"',  # not JSON strings
    b'{"": 1, "": 1}', b"[1,]", b"\f1",
):  # fmt: skip
    bad(f"a field of {len(_value)} bytes, {_value[:20]!r}", field(_value), MANIFEST)
bad("a comment", swap(b"{", b"{ // hello\n"), MANIFEST)
bad("more behind the end", lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_bytes() + b"{}"), MANIFEST)
bad("a zero byte behind the end", lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_bytes() + b"\0"), MANIFEST)

# ---- files


bad("weights with one bit changed", flipped(WEIGHTS), WEIGHTS, "changed after export")
bad("a graph with one bit changed", flipped(CANONICAL), CANONICAL, "changed after export")
bad("a TensorRT graph with one bit changed", flipped(TENSORRT), TENSORRT, "changed after export", base="v3-bf16")
bad("weights cut short", lambda b: os.truncate(b / WEIGHTS, 1000), WEIGHTS, "1000 bytes")
bad("weights with a byte more", lambda b: (b / WEIGHTS).write_bytes((b / WEIGHTS).read_bytes() + b"\0"), WEIGHTS, "bytes")
bad("weights that are missing", lambda b: (b / WEIGHTS).unlink(), WEIGHTS, "No such file")
bad("a graph that is missing", lambda b: (b / INLINED).unlink(), INLINED, "No such file")
bad("a manifest that is missing", lambda b: (b / MANIFEST).unlink(), MANIFEST, "No such file")
bad("weights behind a link", linked(WEIGHTS), WEIGHTS, "link")
bad("a graph behind a link", linked(INLINED), INLINED, "link")
bad("a manifest behind a link", linked(MANIFEST), MANIFEST, "link")
bad("a link that leads nowhere", replaced(CANONICAL, lambda p: p.symlink_to("absent")), CANONICAL, "link")
bad("a pipe as manifest", replaced(MANIFEST, os.mkfifo), MANIFEST, "pipe")
bad("a pipe as weights", replaced(WEIGHTS, os.mkfifo), WEIGHTS, "pipe")
bad("a folder as graph", replaced(CANONICAL, lambda p: p.mkdir()), CANONICAL, "folder")
bad("no bundle but a folder", lambda b: (shutil.rmtree(b), b.mkdir()), MANIFEST)
bad("no folder", shutil.rmtree, "not a bundle")
bad("a file in place of the folder", lambda b: (shutil.rmtree(b), b.write_bytes(b"x")), "not a bundle")
bad("no files", says(drop("files")), "'files'")
bad("files that are a list", says(put("files", [])), "'files'")
for _name in (WEIGHTS, CANONICAL, INLINED):
    bad(f"no {_name}", says(drop(f"files/{_name}")), f"no {_name}")
bad("no SHA-256", says(drop(f"files/{WEIGHTS}/sha256")), "'sha256'")
bad_values(f"files/{WEIGHTS}/sha256", ("ab", "A" * 64, "a" * 64 + "\n"), WEIGHTS, "no SHA-256")
bad("a SHA-256 that is a number", says(put(f"files/{WEIGHTS}/sha256", 1)), "'sha256'")
bad("a file that is text", says(put(f"files/{WEIGHTS}", "a" * 64)), WEIGHTS)
bad_values(f"files/{WEIGHTS}/bytes", (0, 2**60, 1.0), "'bytes'")
bad("a file that is not there", listed("extra.bin"), "extra.bin")
for _name in ("../secret", "/etc/passwd", "a/b", ".ssh", ""):
    bad(f"a file called {_name!r}", listed(_name), repr(_name))
for _name in ("a\nb", "x" * 122, "ä", "a\\b"):
    bad(f"a file called {_name!r}", listed(_name), "file name")
bad("a manifest that lists itself", listed(MANIFEST), MANIFEST)

# ---- TensorRT

for _name, _edit, _words in (
    ("that is a list", put("tensorrt", []), ["'tensorrt'"]),
    ("that is false", put("tensorrt", False), ["'tensorrt'"]),
    ("without precision", drop("tensorrt/precision"), ["'precision'"]),
    ("of int8", put("tensorrt/precision", "int8"), ["'precision'", "'int8'"]),
    ("without graphs", drop("tensorrt/graphs"), ["'graphs'"]),
    ("of no graphs", put("tensorrt/graphs", {}), ["'tensorrt' names no graphs"]),
    ("with graphs that are a list", put("tensorrt/graphs", [TENSORRT]), ["'graphs'"]),
    ("for an unknown profile", put("tensorrt/graphs/fast", TENSORRT), ["'fast'"]),
    ("for a dense model", put("tensorrt/graphs/model", TENSORRT), ["'model'"]),
    ("with a file that is not listed", put("tensorrt/graphs/c0.3-k1", "x.onnx"), ["'x.onnx'"]),
    ("with a file that is no graph", put("tensorrt/graphs/c0.3-k1", WEIGHTS), [WEIGHTS]),
    ("with a file that is a number", put("tensorrt/graphs/c0.3-k1", 1), ["'tensorrt' names"]),
    ("with a file that is null", put("tensorrt/graphs/c0.3-k1", None), ["'tensorrt' names"]),
    ("with one file for two profiles", put("tensorrt/graphs/c0.3-k2", TENSORRT), ["one file for two profiles"]),
):  # fmt: skip
    bad(f"tensorrt {_name}", says(_edit), *_words, base="v3-bf16")
bad(
    "tensorrt for a dense model of another name",
    says(put("tensorrt", {"precision": "fp32", "graphs": {"dense": CANONICAL}})),
    "'dense'",
    base="v3-dense",
)

# ---- graphs: the external files that they read


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
for _key in ("prepacked_0", "checksum", ""):
    bad(f"data with the key {_key!r}", reads(**{_key: "MatMul+1|0;4;0"}), INLINED, f"external data with '{_key}'")
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

good("a function that calls another one", graph(calling("ab", "cb", "bd")))
for _calls in (["aa"], ["ab", "ba"], ["ab", "bc", "cd"], ["cd", "bc", "ab"]):
    for _inside in (False, True):
        _words = f"functions {' '.join(_calls)}{' in branches' * _inside}"
        bad(_words, graph(calling(*_calls, inside=_inside)), CANONICAL, "call one another too deeply")

# ---- graphs: inputs and outputs, which the readers compare with the manifest after a runtime has loaded the graph

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
