"""Good and bad bundles, each made from a kept one by one change: what its files may be.

A case is one line: `bad(NAME, CHANGE, WORDS...)` or `good(NAME, CHANGE)`; `bad_values(FIELD, VALUES, WORDS...)` is one for
each value. Both readers, Python's and C++'s, must refuse a bad one in a sentence that holds the words.
"""

from __future__ import annotations

import os
import shutil

from bundle_changes import (
    CANONICAL,
    INLINED,
    MANIFEST,
    TENSORRT,
    WEIGHTS,
    Cases,
    both,
    field,
    flipped,
    holds,
    linked,
    listed,
    nothing,
    replaced,
    says,
    swap,
    text,
)
from damaged_files import drop, put

CASES = Cases()
good, bad, bad_values = CASES.good, CASES.bad, CASES.bad_values

# ---- bundles as they are kept, and what may differ

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
good("64 levels", field(b"[" * 63 + b"]" * 63))
good("the largest double", field(b"1.7976931348623157e308"))
good("a number that is too small for a double", field(b"1e-999"))
good("a whole number of 300 digits", field(b"9" * 300))
good("minus zero", field(b"-0"))
good("a delete character in text", field(b'"\x7f"'))

# ---- the text of the manifest

bad("no bytes", text(b""), MANIFEST)
bad("a list", text(b"[]"), MANIFEST)
bad("null", text(b"null"), MANIFEST)
bad("half an object", text(b'{"format": "vmoe-bundle", '), MANIFEST)
bad("bytes that are no text", text(b"\xff\xfe\x00"), MANIFEST)
bad("a pickle", text(b"\x80\x04]\x94."), MANIFEST)
bad("17 MiB of spaces", text(b" " * (17 << 20)), MANIFEST, "16 MiB")
bad("100,000 lists", text(b"[" * 100_000), MANIFEST)
bad("65 levels", field(b"[" * 64 + b"]" * 64), MANIFEST, "nested too deeply")
bad("65 levels of objects", field(b'{"a":' * 64 + b"1" + b"}" * 64), MANIFEST, "nested too deeply")
bad("a byte order mark", swap(b"{", b"\xef\xbb\xbf{"), MANIFEST)
bad("UTF-16", lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_text().encode("utf-16")), MANIFEST)
bad("UTF-32", lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_text().encode("utf-32-le")), MANIFEST)
bad("text that is no UTF-8", field(b'"\xff"'), MANIFEST)
bad("text in overlong UTF-8", field(b'"\xc0\xaf"'), MANIFEST)
bad("a surrogate in UTF-8", field(b'"\xed\xa0\x80"'), MANIFEST)
bad("half a surrogate pair", field(b'"\\ud800"'), MANIFEST)
bad("the second half of a pair", field(b'"\\udc00"'), MANIFEST)
bad("half a pair as a key", field(b'{"\\ud800": 1}'), MANIFEST)
bad("a key twice", swap(b'"format_version"', b'"format": "vmoe-bundle", "format_version"'), MANIFEST, "'format'")
bad("a key twice inside", field(b'{"a": 1, "b": {"c": 1, "\\u0063": 2}}'), MANIFEST, "'c'")
bad("two keys without a name", field(b'{"": 1, "": 1}'), MANIFEST)
bad("NaN", field(b"NaN"), MANIFEST)
bad("Infinity", field(b"[Infinity]"), MANIFEST)
bad("minus Infinity", field(b"-Infinity"), MANIFEST)
bad("a number of 1e999", field(b"1e999"), MANIFEST)
bad("a number of -1e309", field(b"-1e309"), MANIFEST)
bad("a whole number of 400 digits", field(b"9" * 400), MANIFEST)
bad("a whole number of 5000 digits", field(b"9" * 5000), MANIFEST)
bad("a number with a leading zero", field(b"01"), MANIFEST)
bad("a number with a plus", field(b"+1"), MANIFEST)
bad("a number without a whole part", field(b".5"), MANIFEST)
bad("a number that ends in a point", field(b"1."), MANIFEST)
bad("a hexadecimal number", field(b"0x10"), MANIFEST)
bad("a number with underscores", field(b"1_0"), MANIFEST)
bad("Arabic digits", field("\u0661".encode()), MANIFEST)
bad("text in single quotes", field(b"'a'"), MANIFEST)
bad("a line break in text", field(b'"a\nb"'), MANIFEST)
bad("a zero byte in text", field(b'"a\x00b"'), MANIFEST)
bad("an unknown escape", field(b'"\\x41"'), MANIFEST)
bad("a comment", swap(b"{", b"{ // hello\n"), MANIFEST)
bad("a comma too many", field(b"[1,]"), MANIFEST)
bad("more behind the end", lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_bytes() + b"{}"), MANIFEST)
bad("a zero byte behind the end", lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_bytes() + b"\0"), MANIFEST)
bad("a form feed between", field(b"\f1"), MANIFEST)

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
bad("no weights", says(drop(f"files/{WEIGHTS}")), f"no {WEIGHTS}")
bad("no canonical graph", says(drop(f"files/{CANONICAL}")), f"no {CANONICAL}")
bad("no inlined graph", says(drop(f"files/{INLINED}")), f"no {INLINED}")
bad("no SHA-256", says(drop(f"files/{WEIGHTS}/sha256")), "'sha256'")
bad_values(f"files/{WEIGHTS}/sha256", ("ab", "A" * 64, "a" * 64 + "\n"), WEIGHTS, "no SHA-256")
bad("a SHA-256 that is a number", says(put(f"files/{WEIGHTS}/sha256", 1)), "'sha256'")
bad("a file that is text", says(put(f"files/{WEIGHTS}", "a" * 64)), WEIGHTS)
bad_values(f"files/{WEIGHTS}/bytes", (0, 2**60, 1.0), "'bytes'")
bad("a file that is not there", listed("extra.bin"), "extra.bin")
bad("'..' in a file name", listed("../secret"), "'../secret'")
bad("an absolute file name", listed("/etc/passwd"), "'/etc/passwd'")
bad("a file in a folder", listed("a/b"), "'a/b'")
bad("a hidden file", listed(".ssh"), "'.ssh'")
bad("a file without a name", listed(""), "''")
bad("a file name of two lines", listed("a\nb"), "file name")
bad("a file name of 122 characters", listed("x" * 122), "file name")
bad("a file name with an umlaut", listed("ä"), "file name")
bad("a file name with a backslash", listed("a\\b"), "file name")
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
