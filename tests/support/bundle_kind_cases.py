"""Good and bad bundles of the routing kinds: names and profiles, and what a kind has in manifest and graphs.

A case is one line: `bad(NAME, CHANGE, WORDS...)` or `good(NAME, CHANGE)`, often in a loop over a table. Both readers,
Python's and C++'s, must refuse a bad one in a sentence that holds the words.
"""

from __future__ import annotations

from typing import Any

from bundle_changes import CANONICAL, INLINED, TENSORRT, Cases, both, graph, port, ports, reshaped, retyped, says
from bundle_kinds import (
    BLOCK,
    EXPERTS,
    HIDDEN,
    INPUTS,
    KERNEL,
    MU,
    OUTPUTS,
    SLOTS,
    TOKENS,
    as_kind,
    chosen,
)
from damaged_files import Edit, drop, put
from onnx import ModelProto, TensorProto, helper

CASES = Cases()
good, bad = CASES.good, CASES.bad

E3 = "v3-ensemble"
KINDS = ("top-k", "experts-choice", "soft")

# ---- the kind

for _kind in KINDS:
    good(f"{_kind}", as_kind(_kind))
    bad(f"{_kind} without its kind", as_kind(_kind, drop("routing/kind")), "'kind'")
    bad(f"{_kind} that says version 2", as_kind(_kind, put("format_version", 2)), "manifest.json" if _kind == "soft" else "")
    for _other in KINDS:
        if _other != _kind:
            bad(f"{_kind} that says {_other}", as_kind(_kind, put("routing/kind", _other)))
for _value in (None, "", "Top-K", "top_k", "topk", "soft-moe", "dense", "e3", 1, True, ["top-k"], {"top-k": 1}):
    bad(f"a kind of {_value!r}", as_kind("top-k", put("routing/kind", _value)), "'kind'")
good("a kind in version 2, where it says nothing", says(put("routing/kind", "soft")))
bad("version 2 that says version 3", says(put("format_version", 3)), "'kind'")
bad("version 2 that says version 3 and top-k", says(put("format_version", 3), put("routing/kind", "top-k")), "'pool'")

# ---- fields of other kinds, which are refused where they are not null

_FOREIGN: dict[str, tuple[str, ...]] = {
    "top-k": ("slots_per_expert",),
    "experts-choice": ("slots_per_expert", "ensemble_size"),
    "soft": ("rounding", "capacity_multiple_of", "ensemble_size"),
}
for _kind, _fields in _FOREIGN.items():
    for _field in _fields:
        good(f"{_kind} whose {_field} is null", as_kind(_kind, put(f"routing/{_field}", None)))
        for _value in (0, 1, "ceil", False, [], 2.0):
            bad(f"{_kind} whose {_field} is {_value!r}", as_kind(_kind, put(f"routing/{_field}", _value)), f"'{_field}'")
for _field in ("k", "bpr", "pool", "max_experts"):
    good(f"experts choice whose {_field} is null", as_kind("experts-choice", put(f"profiles/1/{_field}", None)))
    for _value in (0, 1, False, True, "1"):
        bad(
            f"experts choice whose {_field} is {_value!r}",
            as_kind("experts-choice", put(f"profiles/1/{_field}", _value)),
            _field,
        )
for _field in ("pool", "max_experts"):
    good(f"version 2 whose {_field} is null", says(put(f"profiles/0/{_field}", None)))
    for _value in (0, 4, False, True):
        bad(f"version 2 whose {_field} is {_value!r}", says(put(f"profiles/0/{_field}", _value)), _field)
        bad(f"an ensemble whose {_field} is {_value!r}", says(put(f"profiles/0/{_field}", _value)), _field, base=E3)
    bad(f"version 1 whose {_field} is 4", says(put(f"profiles/0/{_field}", 4)), _field, base="v3-plain")

# ---- fields that a kind needs

for _kind, _fields in {"top-k": ("rounding", "capacity_multiple_of"), "soft": ("slots_per_expert",)}.items():
    for _field in _fields:
        bad(f"{_kind} without {_field}", as_kind(_kind, drop(f"routing/{_field}")), f"'{_field}'")
        bad(f"{_kind} whose {_field} is null", as_kind(_kind, put(f"routing/{_field}", None)), f"'{_field}'")
for _value in (0, -1, 2.0, True, "2", [2], 2**31, 2**64):
    bad(f"{_value!r} slots per expert", as_kind("soft", put("routing/slots_per_expert", _value)), "'slots_per_expert'")
for _slots in (1, 3):
    bad(f"{_slots} slots per expert of {SLOTS}", as_kind("soft", put("routing/slots_per_expert", _slots)), str(_slots))
bad("Soft MoE with a profile", as_kind("soft", put("profiles", [{"name": "c1.0"}])), "profiles", "Soft MoE")
bad("Soft MoE whose profiles are null", as_kind("soft", put("profiles", None)), "'profiles'")
bad("Soft MoE without profiles", as_kind("soft", drop("profiles")), "'profiles'")
bad("experts choice of no profiles", as_kind("experts-choice", put("profiles", [])), "profile")
for _field in ("pool", "max_experts", "k", "bpr", "capacity", "capacity_ratio", "name"):
    bad(f"top-k without {_field}", as_kind("top-k", drop(f"profiles/1/{_field}")), f"'{_field}'")
for _field in ("name", "capacity", "capacity_ratio"):
    bad(f"experts choice without {_field}", as_kind("experts-choice", drop(f"profiles/1/{_field}")), f"'{_field}'")
for _value in (None, 0, 1, 1.0, "true", []):
    bad(f"a pool that is {_value!r}", as_kind("top-k", put("profiles/0/pool", _value)), "'pool'")
for _value in (None, 0, -1, EXPERTS + 1, 4.0, True, "4", [4], 2**31, 2**64):
    bad(f"max_experts that is {_value!r}", as_kind("top-k", put("profiles/0/max_experts", _value)), "'max_experts'")

# ---- names of profiles: what a setting is called, and other names that it isn't

_NAMES: list[tuple[dict[str, Any], str]] = [
    (chosen(0.3, 1, places=1), "c0.3-k1"),
    (chosen(1.0, 1, places=3), "c1-k1"),
    (chosen(0.3, 2, bpr=False, places=2), "c0.3-k2-vanilla"),
    (chosen(0.3, 1, pool=True, places=1), "c0.3-k1-pool"),
    (chosen(0.3, 1, max_experts=1, places=1), "c0.3-k1-m1"),
    (chosen(0.3, 1, max_experts=3, places=1), "c0.3-k1-m3"),
    (chosen(0.3, 1, pool=True, max_experts=2, places=1), "c0.3-k1-pool-m2"),
    (chosen(1.05, 2, bpr=False, pool=True, places=6), "c1.05-k2-vanilla-pool"),
    (chosen(1.05, 2, bpr=False, max_experts=2, places=6), "c1.05-k2-vanilla-m2"),
    (chosen(1.05, 2, bpr=False, pool=True, max_experts=3, places=6), "c1.05-k2-vanilla-pool-m3"),
    (chosen(1.05, 4, pool=True, max_experts=1, places=11), "c1.05-k4-pool-m1"),
]
for _profile, _name in _NAMES:
    assert _profile["name"] == _name
    good(f"the profile {_name}", as_kind("top-k", put("profiles", [_profile])))
    _all = f"{_name} by another name: "
    for _other in (
        f"{_name}-m{EXPERTS}",
        f"{_name}-official",
        _name.replace("-k", "-K"),
        _name.replace("-pool", "") if "-pool" in _name else f"{_name}-pool",
        _name.replace("-vanilla", "") if "-vanilla" in _name else f"{_name}-vanilla",
    ):
        bad(f"{_all}{_other}", as_kind("top-k", put("profiles", [{**_profile, "name": _other}])), f"'{_other}'")
for _other, _profile in {
    "c0.3-k1-m2-pool": chosen(0.3, 1, pool=True, max_experts=2, places=1),
    "c0.3-k1-pool-vanilla": chosen(0.3, 1, bpr=False, pool=True, places=1),
    "c0.3-pool-k1": chosen(0.3, 1, pool=True, places=1),
    "c0.3-k1-m02": chosen(0.3, 1, max_experts=2, places=1),
    "c0.3-k1-m 2": chosen(0.3, 1, max_experts=2, places=1),
    "c0.3-k1-m\u0662": chosen(0.3, 1, max_experts=2, places=1),
    "c0.3-k1-M2": chosen(0.3, 1, max_experts=2, places=1),
    "c0.3-k1-m2\n": chosen(0.3, 1, max_experts=2, places=1),
    "c0.3-k1-pool\n": chosen(0.3, 1, pool=True, places=1),
    "c1.0-k1": chosen(1.0, 1, places=3),
}.items():
    bad(f"a name of {_other!r}", as_kind("top-k", put("profiles", [{**_profile, "name": _other}])), "profile")
for _pool, _limit in ((True, EXPERTS), (False, 2), (True, 2)):
    _one = chosen(0.3, 1, pool=_pool, max_experts=_limit, places=1)
    bad(f"{_one['name']} twice", as_kind("top-k", put("profiles", [_one, _one])), "two profiles", _one["name"])
    bad(f"{_one['name']} of other places", as_kind("top-k", put("profiles", [{**_one, "capacity": [2]}])), _one["name"])
good("one setting without and with each policy", as_kind("top-k", put("profiles", [p for p, _ in _NAMES])))
_HUGE: list[Edit] = [put("routing/group_tokens", 131_072), put("routing/group", "batch")]
bad(
    "a limit of experts in a group of 131,072 tokens",
    as_kind("top-k", *_HUGE, put("profiles", [chosen(0.3, 1, max_experts=2, places=9831)])),
    "131,071",
)
bad(
    "no limit of experts in a group of 131,072 tokens, for a graph of ten",
    as_kind("top-k", *_HUGE, put("profiles", [chosen(0.3, 1, places=9831)])),
    "131072",
)

for _ratio, _places, _name in (
    (1.0, 3, "c1.0"),
    (0.5, 2, "c0.5"),
    (1.05, 3, "c1.05"),
    (4.0, 10, "c4.0"),
    (1e-05, 1, "c1e-05"),
):
    _entry = {"name": _name, "capacity_ratio": _ratio, "capacity": [_places]}
    good(f"experts choice of {_name}", as_kind("experts-choice", put("profiles", [_entry])))
    for _other in (_name + "-k1", _name.removesuffix(".0") + "0" * (not _name.endswith(".0")), f"{_name} ", _name[1:]):
        bad(
            f"experts choice of {_name} by another name: {_other!r}",
            as_kind("experts-choice", put("profiles", [{**_entry, "name": _other}])),
            "profile",
        )
    bad(
        f"experts choice of {_name} for {_places + 1} places",
        as_kind("experts-choice", put("profiles", [{**_entry, "capacity": [_places + 1]}])),
        _name,
    )
for _ratio in (0, -1.0, EXPERTS + 0.5, True, "1.0", None):
    bad(
        f"experts choice of a ratio of {_ratio!r}",
        as_kind("experts-choice", put("profiles/0/capacity_ratio", _ratio)),
        "profile" if isinstance(_ratio, int | float) and not isinstance(_ratio, bool) else "'capacity_ratio'",
    )

# ---- graphs: what each kind takes and gives


def _removed(name: str) -> Edit:
    def edit(model: ModelProto) -> None:
        values = model.graph.input if name in {value.name for value in model.graph.input} else model.graph.output
        values.remove(ports(model)[name])

    return edit


def _more_input(name: str) -> Edit:
    return lambda model: model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, [1]))


for _kind in KINDS:
    for _name in INPUTS["top-k"]:
        if _name in INPUTS[_kind]:
            for _graph in (CANONICAL, INLINED):
                bad(
                    f"{_kind} without {_name} in {_graph}",
                    both(as_kind(_kind), graph(_removed(_name), _graph)),
                    _graph,
                    _name,
                )
            bad(
                f"{_kind} with {_name} in int32", both(as_kind(_kind), graph(port(_name, TensorProto.INT32))), _name, "int32"
            )
            bad(f"{_kind} with {_name} of two", both(as_kind(_kind), graph(port(_name, dim=(0, 2)))), _name, "[2]")
        else:
            for _graph in (CANONICAL, INLINED):
                bad(
                    f"{_kind} that takes {_name} in {_graph}",
                    both(as_kind(_kind), graph(_more_input(_name), _graph)),
                    _graph,
                )
    for _name, (_element, _shape) in OUTPUTS[_kind].items():
        _output = f"{BLOCK}/{_name}"
        bad(f"{_kind} without {_name}", both(as_kind(_kind), graph(_removed(_output))), CANONICAL, _output)
        bad(f"{_kind} inlined without {_name}", both(as_kind(_kind), graph(_removed(_output), INLINED)), INLINED, _output)
        bad(
            f"{_kind} with {_name} in int64", both(as_kind(_kind), graph(port(_output, TensorProto.INT64))), _output, "int64"
        )
        for _axis, _extent in enumerate(_shape):
            _wrong = 77 if isinstance(_extent, str) else _extent + 1
            bad(
                f"{_kind} with {_name} of {_wrong} in dimension {_axis}",
                both(as_kind(_kind), graph(port(_output, dim=(_axis, _wrong)))),
                _output,
                str(_wrong),
            )
bad("top-k with kept in uint8", both(as_kind("top-k"), graph(port(f"{BLOCK}/kept", TensorProto.UINT8))), "bool", "uint8")
bad("top-k that gives slots instead of experts", both(as_kind("top-k"), graph(_removed(f"{BLOCK}/expert"))), "expert")

# ---- graphs: routers

bad("Soft MoE with a router of more experts", both(as_kind("soft"), graph(reshaped(MU, HIDDEN, 5, SLOTS))), "4 experts")
bad("Soft MoE with a router of more slots", both(as_kind("soft"), graph(reshaped(MU, HIDDEN, EXPERTS, 3))), BLOCK)
bad("Soft MoE with a router of two dimensions", both(as_kind("soft"), graph(reshaped(MU, HIDDEN, EXPERTS))), BLOCK)


def _renamed(old: str, new: str) -> Edit:
    return lambda model: setattr(next(t for t in model.graph.initializer if t.name == old), "name", new)


bad("Soft MoE without mu", both(as_kind("soft"), graph(_renamed(MU, "mu"))), "no router", BLOCK)
bad("Soft MoE with mu elsewhere", both(as_kind("soft"), graph(_renamed(MU, MU.replace("_1", "_0")))), "router in")
bad("Soft MoE with the kernel of top-k", both(as_kind("soft"), graph(_renamed(MU, KERNEL))), "no router", BLOCK)
bad("top-k with the router of Soft MoE", both(as_kind("top-k"), graph(_renamed(KERNEL, MU))), "no router", BLOCK)
bad("top-k with a router of 5 experts", both(as_kind("top-k"), graph(reshaped(KERNEL, HIDDEN, 5))), "5", "4 experts")
bad("Soft MoE with mu in bfloat16", both(as_kind("soft"), graph(retyped(MU, TensorProto.BFLOAT16))), "bfloat16")

# ---- TensorRT, whose graphs are as they were

# Of a group of two images.
_TENSORRT = both(
    as_kind("top-k", put("profiles", [chosen(0.3, 1, places=2), chosen(0.3, 2, places=3)])),
    *(graph(port(f"{BLOCK}/{o}", dim=(1, 2 * TOKENS)), g) for o in OUTPUTS["top-k"] for g in (CANONICAL, INLINED)),
)
good("TensorRT graphs of version 3", _TENSORRT, base="v3-bf16")
bad(
    "a TensorRT graph of version 3 without slots",
    both(_TENSORRT, graph(_removed(f"{BLOCK}/slot"), TENSORRT)),
    TENSORRT,
    f"{BLOCK}/slot",
    base="v3-bf16",
)
bad("a TensorRT graph that takes a pool", both(_TENSORRT, graph(_more_input("pool"), TENSORRT)), "pool", base="v3-bf16")
