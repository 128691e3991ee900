"""Dispatch only the class tokens. This is used in the last block of a model whose head reads no other token."""

from __future__ import annotations

import onnx
import onnx.parser

from vmoe_export.ops.table import OPSET


def class_dispatch(experts: int, tokens: str, *, experts_choose: bool) -> onnx.FunctionProto:
    """Return a function (x[G,S,D], weight[G,S,K], kept[G,S,K], expert[G,S,K]) => (x[N,1,D], slot, weight, src).

    The function consists of standard ops. Its outputs are the inputs of a VmoeExpertBlock with N groups of one token. Each
    expert has one slot per image, and the index of this slot is expert * N + image.

    Args:
        experts: E.
        tokens: lines in ONNX's text format that compute `tokens` i64[1], the number of tokens per image. It is used to split
            groups into images. If each group is one image, there are no lines, and the text is "".
        experts_choose: whether experts choose their tokens (expert choice). If so, K is E, the choices of each token are all
            experts in order, and the function has no input `expert`.
    """
    names = ["x", "weight", "kept"]
    if not experts_choose:
        names.append("expert")
    lines = ["zero = Constant <value_ints = [0]> ()"]
    if tokens or experts_choose:
        lines.append("rest = Constant <value_ints = [-1]> ()")
    if tokens:
        lines += [tokens, "as_it_is = Constant <value_ints = [0]> ()", "shape = Concat <axis = 0> (rest, tokens, as_it_is)"]
        lines += [f"{name}_image = Reshape ({name}, shape)" for name in names]
    of_image = "_image" if tokens else ""
    lines += [f"class_{name} = Gather <axis = 1> ({name}{of_image}, zero)" for name in names]
    lines.append(f"numbers = Constant <value = int32[{experts}, 1, 1, 1] {{{', '.join(map(str, range(experts)))}}}> ()")
    if experts_choose:
        lines.append("class_expert = Reshape (numbers, rest)")
    head = f'<domain: "body", opset_import: ["": {OPSET}]> body ({", ".join(names)}) => (class_x, slot, class_weight, src)'
    return onnx.parser.parse_function(f"{head} {{ {chr(10).join(lines)} {_SLOTS} }}")


_SLOTS = """
    start = Constant <value = int32 {0}> ()
    step = Constant <value = int32 {1}> ()
    no_slot = Constant <value = int32 {-1}> ()
    count_i64 = Shape <start = 0, end = 1> (class_x)
    count = Cast <to = 6> (count_i64)
    count_0d = Squeeze (count)
    images = Range (start, count_0d, step)
    by_group = Constant <value_ints = [-1, 1, 1]> ()
    image = Reshape (images, by_group)
    base = Mul (class_expert, count)
    place = Add (base, image)
    slot = Where (class_kept, place, no_slot)
    kept_expert = Where (class_kept, class_expert, no_slot)
    is_pair = Equal (kept_expert, numbers)
    source = Where (is_pair, image, no_slot)
    choices = Constant <value_ints = [2, 3]> ()
    src = ReduceMax <keepdims = 0> (source, choices)
"""
