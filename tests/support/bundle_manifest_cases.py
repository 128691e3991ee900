"""Good and bad bundles, each of which is a test bundle with one change to its manifest.

A case is one line: `bad(NAME, CHANGE, WORDS...)` or `good(NAME, CHANGE)`. `bad_values(FIELD, VALUES, WORDS...)` makes one
bad case per value. The Python reader and the C++ reader must refuse a bad bundle with a message that contains WORDS.
"""

from __future__ import annotations

from bundle_changes import CANONICAL, INLINED, MANIFEST, Cases, Change, says, steps, swap
from damaged_files import drop, put

CASES = Cases()
good, bad, bad_values = CASES.good, CASES.bad, CASES.bad_values

for _field in (
    *("precision", "model", "input", "output", "graphs", "batch_multiple", "preprocessing"),
    *("routing/group", "profiles/0/name"),
):
    bad(f"no {_field}", says(drop(_field)), f"'{_field.split('/')[-1]}'")

# ---- format and precision

bad_values("format", ("zip", ["vmoe-bundle"]), "not the manifest")
bad("no format", says(drop("format")), "not the manifest")
bad_values(
    "format_version", (4, 2, 1, 0, -1, 2**64, "3", True, 3.0, None), "format version", "export it again", "or read it with"
)
bad("a format version of 3e0", swap(b'"format_version": 3', b'"format_version": 3e0'), "export it again")
bad("no format version", says(drop("format_version")), "export it again")
bad("an unknown precision", says(put("precision", "int2")), "'precision'", "'int2'")
bad("the precision of TensorRT graphs", says(put("precision", "fp16")), "'precision'", "'fp16'")
bad_values("precision", (None, 8, ["fp32"], "FP32"), "'precision'")

# ---- input, output, class names

bad("a model that is a list", says(put("model", [])), "'model'")
bad("an input that is null", says(put("input", None)), "'input'")
bad("another name of the input", says(put("input/name", "picture")), "'name'", "image")
bad("an unknown dtype", says(put("input/dtype", "float64")), "'dtype'", "'float64'")
bad("a height of 0", says(put("input/height", 0)), "'height' is 0")
bad_values("input/height", (10**18, 2**64, 12.0, True), "'height'")
bad("a width of a million", says(put("input/width", 10**6)), "'width' is 1000000")
bad("channels as text", says(put("input/channels", "3")), "'channels'")
bad("an unknown output", says(put("output/name", "loss")), "'name'", "'loss'")
bad_values("output/size", ("ten", 0, 2**40), "'size'")
bad("an output of 2^24 + 1 floats", says(put("output/size", 2**24 + 1), drop("class_names")), "'size'", "16777217")
bad("tokens without their number", says(put("output/name", "tokens"), drop("class_names")), "'tokens'")
bad("a number of tokens of logits", says(put("output/tokens", 9)), "'tokens'")
bad(
    "more than 2^24 floats of tokens",
    says(put("output/name", "tokens"), put("output/tokens", 2**23)),
    "'tokens' times 'size'",
)
bad("layers without a size", says(put("layers", {"blocks": [1], "tokens": 9})), "'size'")
for _blocks in ([], [1, 1], [1, 0], [-1], [True], [1.0], ["1"], [10**6], [2**64], [None], [[1]]):
    bad(f"blocks {_blocks}", says(put("layers", {"blocks": _blocks, "tokens": 9, "size": 24})), "'blocks'")
bad_values("class_names", (["one"], [1] * 7), "class_names must be 7 strings")
bad_values("class_names", ("abcdefg", False), "'class_names'")
good("probabilities of each class alone", says(put("probabilities", "sigmoid")))
good("probabilities that are null", says(put("probabilities", None)))
bad_values("probabilities", ("Softmax", True, ["softmax"]), "'probabilities'")
bad("graphs that are a list", says(put("graphs", [])), "'graphs'")
bad("another canonical graph", says(put("graphs/canonical", "other.onnx")), "'canonical'", CANONICAL)
bad("another inlined graph", says(put("graphs/inlined", CANONICAL)), "'inlined'", INLINED)
bad_values("batch_multiple", (0, 1.0), "'batch_multiple'")
bad("a batch_multiple of 65,537", says(put("batch_multiple", 65_537), put("routing/group", "batch")), "'batch_multiple'")

# ---- preprocessing for a model that takes images of 12 x 12 pixels

for _steps in (
    *("resize(12)", "resize(12,12)", "resize_small(16)|central_crop(12)", "central_crop(12)"),
    "exif|background(255,0,12)|resize(12)",
    *("pillow_bicubic_small(16)|round_central_crop(12)", "pillow_bilinear(12)"),
    "round_central_crop(16)|pillow_bicubic(30,20)|central_crop(12)",
    "central_crop(40,30)|resize(30,20)|central_crop(20)|central_crop(12)",
):
    good(f"the steps {_steps}", steps(_steps))
good("steps and a field that nobody knows", says(put("preprocessing", {"steps": "resize(12)", "filter": "box"})))
bad("preprocessing that is text", says(put("preprocessing", "resize(12)")), "'preprocessing'")
bad("preprocessing without steps", says(put("preprocessing", {})), "'steps'")
bad("steps that are a list", steps(["resize(12)"]), "'steps'")
for _words, *_wrong in (
    ("out of range", "background(0,0,256)|resize(12)"),
    ("''", "", "resize(12)|"),
    ("'decode'", "decode|resize(12)"),
    ("65536", "resize(65537)|central_crop(12)"),
    ("'resize(100000)'", "resize(100000)|central_crop(12)"),
    ("more than 6 steps", "resize(12)" + "|central_crop(12)" * 6),
    ("only one step may resize", "resize_small(16)|resize(12)", "pillow_bicubic_small(16)|pillow_bilinear(12)"),
    ("several sizes", "pillow_bilinear_small(12)", "resize_small(12)"),
    ("more pixels", "pillow_bicubic(10)|round_central_crop(12)", "central_crop(10)|central_crop(12)"),
    ("central_crop(12) takes more pixels", "resize_small(10)|central_crop(12)"),
    ("is not a step", "background(0,0,0)|exif|resize(12)", "pillow_bicubic_smaller(12)", "resize(12) | central_crop(12)"),
    ("is not a step", "resize(12)\n", "resize(\u0661\u0662)", "resize_small(16,16)|central_crop(12)"),
    ("is not a step", "pillow_bicubic_small(16,16)|central_crop(12)", "resize(12)|exif", "background(1,2)|resize(12)"),
    ("is not a step", "background(1,2,3)|background(1,2,3)|resize(12)"),
):
    for _steps in _wrong:
        bad(f"the steps {_steps!r}", steps(_steps), "'preprocessing'", _words)
for _steps in (
    *("pillow_lanczos(12)", "pillow(12)", "flip(12)", "Resize(12)"),
    *("resize()", "resize(0)", "resize(012)", "resize( 12)", "resize(12,12,3)"),
):
    bad(f"the steps {_steps!r}", steps(_steps), "'preprocessing'", repr(_steps))
bad("steps to another size", steps("resize(16)"), "'preprocessing'", "16x16", "12x12")
bad("steps to another width", steps("resize(12,16)"), "'preprocessing'", "12x16", "12x12")

# ---- routing and profiles

bad_values("routing", ([], False), "'routing'")
bad_values("routing/layers", ([], {}), "'layers'")
bad_values(
    "routing/layers/0",
    ("encoderblock_0/../x", "encoderblock_\u0661", "encoderblock_1\n", "encoderblock_1000000", 1),
    "'layers'",
)
bad(
    "a MoE layer twice",
    says(put("routing/layers", ["encoderblock_1"] * 2), put("profiles/0/capacity", [1, 1])),
    "'layers'",
    "twice",
)
bad("1001 MoE layers", says(put("routing/layers", [f"encoderblock_{i}" for i in range(1001)])), "'layers'", "1000")
bad_values("routing/num_experts", (0, 65_537, 4.0), "'num_experts'")
good("experts of each layer that are the same", says(put("routing/layer_experts", [4])))
good("experts of each layer that are null", says(put("routing/layer_experts", None)))
bad_values(
    "routing/layer_experts", ([], [4, 4], [3], [5], [4.0], [True], ["4"], [2**64]), "'layer_experts'", "each of 'layers'"
)
bad("experts of each layer that are a number", says(put("routing/layer_experts", 4)), "'layer_experts'", "wrong type")
bad_values("routing/group_tokens", (0, 2**31, 2**60), "'group_tokens'")
bad("rounding down", says(put("routing/rounding", "floor")), "'rounding'", "'floor'")
bad_values("routing/capacity_multiple_of", (0, 2**31), "'capacity_multiple_of'")
bad("a capacity multiple that is too large", says(put("routing/capacity_multiple_of", 129)), "'c0.3-k1'", "129")


def _multiple_of(slots: int) -> Change:
    """Return a change that sets the group size to 150, and the capacity multiple and all capacities to `slots`.

    Groups then have 150 tokens.
    """
    group = put("routing/group", "15"), put("batch_multiple", 15), put("routing/group_tokens", 150)
    capacities = (put(f"profiles/{i}/capacity", [slots]) for i in range(4))
    return says(put("routing/capacity_multiple_of", slots), *group, *capacities)


good("a few slots more than pairs", _multiple_of(151))
bad("more than twice as many slots as pairs", _multiple_of(301), "'c0.3-k1'", "301")
bad("an unknown group", says(put("routing/group", "row")), "'group'", "'row'")
bad_values("routing/group", ("0", "\u0661", "1 ", str(2**64)), "'group'")
bad("a group of another batch", says(put("routing/group", "2")), "'group'", "'batch_multiple' is 1")
bad("group image of two images", says(put("batch_multiple", 2)), "'group'", "'batch_multiple' is 2")
bad("a group of other tokens", says(put("routing/group", "tokens:20")), "'group'", "'group_tokens' is 10")
bad("no profiles", says(put("profiles", [])), "profile")
bad_values("profiles", (None, {}), "'profiles'")
bad("a profile that is text", says(put("profiles/0", "c0.3-k1")), "profiles")
bad("profiles of a dense model", says(put("routing", None)), "dense")
bad_values("profiles/0/capacity/0", (2, 1.0, True, 2**64 + 1), "'c0.3-k1'")
bad_values("profiles/0/capacity", ([1, 1], []), "'c0.3-k1'")
bad("a profile whose capacity is a number", says(put("profiles/0/capacity", 1)), "'capacity'")
bad("a profile of another name", says(put("profiles/0/name", "fast")), "'fast'")
bad("a profile of another spelling", says(put("profiles/0/name", "c0.30-k1")), "'c0.30-k1'")
bad("a profile spelled with .0", says(put("profiles/2/capacity_ratio", 1.0), put("profiles/2/name", "c1.0-k1")), "'c1.0-k1'")
bad_values("profiles/0/name", ("c0.\u0663-k1", "c0.3-k1\n"), "profile")
bad("a profile of k 9", says(put("profiles/0/k", 9)), "k must be")
bad_values("profiles/0/k", (0, 1.0, True), "'k'")
bad_values("profiles/0/capacity_ratio", (0, -0.3), "'c0.3-k1'", "positive")
bad_values("profiles/0/capacity_ratio", (1e308, 10**300), "'c0.3-k1'", "larger than")
bad_values("profiles/0/capacity_ratio", (float("inf"), float("nan")), MANIFEST)
bad_values("profiles/0/capacity_ratio", ("0.3", True), "'capacity_ratio'")
bad("a profile whose bpr is 1", says(put("profiles/0/bpr", 1)), "'bpr'")
bad("a profile in vanilla order without its suffix", says(put("profiles/0/bpr", False)), "'c0.3-k1'")
bad("the same profile twice", says(lambda m: m["profiles"].append(m["profiles"][0])), "two profiles 'c0.3-k1'")

# ---- fields that depend on the routing kind

E3, CHOICE, SOFT = "v3-ensemble", "v3-choice", "v3-soft"
good("an ensemble of one", says(put("routing/ensemble_size", 1)))
good("an ensemble size that is null", says(put("routing/ensemble_size", None)))
bad_values("routing/ensemble_size", (0, -2, 2.0, True, "2", 2**31), "'ensemble_size'", base=E3)
bad("3 members for 4 experts", says(put("routing/ensemble_size", 3)), "doesn't divide 'num_experts'", base=E3)
bad("an odd number of tokens", says(put("routing/group_tokens", 21)), "doesn't divide 'group_tokens'", base=E3)
bad("members of one expert and a k of 2", says(put("routing/ensemble_size", 4)), "'c0.3-k2'", "of a member, 1", base=E3)
bad("members that the manifest doesn't have", says(drop("routing/ensemble_size")), base=E3)
bad("layers of an ensemble", says(put("layers", {"blocks": [0], "tokens": 9, "size": 24})), "'layers'", base=E3)
bad("an ensemble's features", says(put("output/name", "features")), "'features'", base=E3)
bad("members of a plain V-MoE", says(put("output/name", "members")), "'members'")
bad("members of a dense model", says(put("output/name", "members")), "'members'", base="v3-dense")
bad("a name for each member's class", says(put("class_names", ["a"] * 14)), "class_names", base=E3)
bad("no kind", says(drop("routing/kind")), "'kind'")
bad_values("routing/kind", (None, "", "Top-K", "soft-moe", "dense", 1, ["top-k"]), "'kind'")
for _base, _other in (("v3-plain", "soft"), ("v3-plain", "experts-choice"), (CHOICE, "top-k"), (SOFT, "top-k")):
    bad(f"{_base} that says {_other}", says(put("routing/kind", _other)), MANIFEST, base=_base)
for _base, _field in (
    ("v3-plain", "routing/slots_per_expert"),
    (CHOICE, "routing/slots_per_expert"),
    (CHOICE, "routing/ensemble_size"),
    (CHOICE, "profiles/1/k"),
    (CHOICE, "profiles/1/max_experts"),
    (SOFT, "routing/rounding"),
    (SOFT, "routing/ensemble_size"),
    (E3, "profiles/0/pool"),
    (E3, "profiles/0/max_experts"),
):
    good(f"{_base} whose {_field} is null", says(put(_field, None)), base=_base)
    for _value in (0, 1, False, "ceil"):
        bad(f"{_base} whose {_field} is {_value!r}", says(put(_field, _value)), f"'{_field.split('/')[-1]}'", base=_base)
for _base, _field in (
    ("v3-plain", "routing/rounding"),
    ("v3-plain", "profiles/0/pool"),
    (E3, "profiles/0/bpr"),
    (CHOICE, "routing/capacity_multiple_of"),
    (SOFT, "routing/slots_per_expert"),
):
    for _name, _edit in (("without", drop(_field)), ("with null as", put(_field, None))):
        bad(f"{_base} {_name} {_field}", says(_edit), f"'{_field.split('/')[-1]}'", base=_base)
bad_values("routing/slots_per_expert", (0, 2.0, True, "2", 2**31, 2**64), "'slots_per_expert'", base=SOFT)
bad_values("profiles/0/max_experts", (0, 5, 4.0, True, 2**64), "'max_experts'")
bad("profiles of a Soft MoE", says(put("profiles", [{}])), "has none", base=SOFT)

# ---- profile names, whose meaning `test_profile_names.py` checks

_POOLED = [put("profiles/0/pool", True), put("profiles/0/max_experts", 3)]
good("a pool and a limit", says(*_POOLED, put("profiles/0/name", "c0.3-k1-pool-m3")))
for _name in (
    "c0.3-k1",
    "c0.3-k1-m3-pool",
    "c0.3-k1-pool-m03",
    "c0.3-k1-pool-m3 ",
    "c0.3-k1-pool-m\u0663",
    "C0.3-k1-pool-m3",
):
    bad(f"a pool and a limit called {_name!r}", says(*_POOLED, put("profiles/0/name", _name)), "profile")
bad_values("profiles/0/name", ("c0.50", "c.5", "c0.5-k1", "c0.5 "), "profile", base=CHOICE)
_LARGE = [
    put("routing/group_tokens", 131_072),
    put("routing/group", "batch"),
    lambda m: m.update(profiles=m["profiles"][:1]),
]
good("a group of 131,072 tokens", says(*_LARGE, put("profiles/0/capacity", [9831])))
bad(
    "a limit of experts in a group of 131,072 tokens",
    says(*_LARGE, *_POOLED, put("profiles/0/capacity", [9831]), put("profiles/0/name", "c0.3-k1-pool-m3")),
    "131,071",
)
