"""The ONNX function body of VmoeMerge, in ONNX's text format.

The body does not sort. It computes the rank of a token as the number of tokens that have a more similar partner. This number
is an integer, so it is exact in every runtime. A product with a matrix of the tokens' sizes moves the tokens to their new
positions. This product costs as much as one product of attention, and it preserves every bit of tokens that are not merged.
"""

from __future__ import annotations

from vmoe_export.ops.table import MERGE_EPSILON


def merge(prefix: int, rotation: bool) -> str:
    """Return the body of VmoeMerge.

    Args:
        prefix: number of tokens at the front that never merge.
        rotation: whether tokens have coordinates.
    """
    # After the prefix, every second token may join another token. The first of these tokens is token `prefix`, but if the
    # prefix is a single token, it is token 2.
    first, joined = (2, 1) if prefix == 1 else (prefix, prefix + 1)
    # Coordinates are merged as additional columns of the tokens.
    return _MERGE.format(
        prefix=prefix,
        first=first,
        joined=joined,
        epsilon=f"{MERGE_EPSILON:.12f}",
        widen="whole = Concat <axis = 2> (x, coordinates)" if rotation else "",
        whole="whole" if rotation else "x",
        y="merged_whole" if rotation else "y",
        narrow=_NARROW if rotation else "",
    )


_NARROW = """
    x_width = Shape <start = 2> (x)
    end = Constant <value_ints = [2147483647]> ()
    y = Slice (merged_whole, zero, x_width, two)
    merged_coordinates = Slice (merged_whole, x_width, end, two)
"""

_MERGE = """
    {widen}
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    rest = Constant <value_ints = [-1]> ()
    copy = Constant <value_ints = [0, 0]> ()
    zero_0d = Constant <value_int = 0> ()
    one_0d = Constant <value_int = 1> ()
    nothing = Constant <value_float = 0.0> ()
    prefix = Constant <value_ints = [{prefix}]> ()
    first = Constant <value_ints = [{first}]> ()
    joined = Constant <value_ints = [{joined}]> ()
    before_first = Sub (first, one)
    before_joined = Sub (joined, one)
    images = Shape <start = 0, end = 1> (x)
    tokens = Shape <start = 1, end = 2> (x)

    # The keys of each token averaged over the heads, as unit vectors: `own` of the tokens that may join, `other` of those
    # that may be joined.
    heads_0d = Constant <value_int: int = @num_heads> ()
    heads = Reshape (heads_0d, rest)
    width = Shape <start = 2, end = 3> (k)
    size = Div (width, heads)
    by_head_shape = Concat <axis = 0> (copy, heads, size)
    by_head = Reshape (k, by_head_shape)
    mean = ReduceMean <keepdims = 0> (by_head, two)
    square = Mul (mean, mean)
    square_sum = ReduceSum <keepdims = 1> (square, two)
    epsilon = Constant <value_float = {epsilon}> ()
    square_length = Add (square_sum, epsilon)
    length = Sqrt (square_length)
    metric = Div (mean, length)
    own = Slice (metric, first, tokens, one, two)
    other = Slice (metric, joined, tokens, one, two)
    other_columns = Transpose <perm = [0, 2, 1]> (other)
    products = MatMul (own, other_columns)
    is_nan = IsNaN (products)
    # Below every cosine. -inf would fail: OpenVINO's ReduceMax over only -inf gives the lowest finite number, which equals
    # none of them.
    least = Constant <value_float = -2.0> ()
    scores = Where (is_nan, least, products)

    # The most similar of the others for each token, the lower one on ties.
    own_span = Sub (tokens, before_first)
    own_count = Div (own_span, two)
    other_span = Sub (tokens, before_joined)
    other_count = Div (other_span, two)
    own_count_0d = Squeeze (own_count)
    other_count_0d = Squeeze (other_count)
    own_row = Range (zero_0d, own_count_0d, one_0d)
    other_row = Range (zero_0d, other_count_0d, one_0d)
    best = ReduceMax <keepdims = 1> (scores, two)
    is_best = Equal (scores, best)
    candidate = Where (is_best, other_row, other_count)
    to = ReduceMin <keepdims = 0> (candidate, two)

    # The rank of a token that may join: how many have a larger similarity, or the same and a lower index.
    best_row = Transpose <perm = [0, 2, 1]> (best)
    is_likelier = Greater (best_row, best)
    is_as_likely = Equal (best_row, best)
    own_column = Unsqueeze (own_row, one)
    is_lower = Less (own_row, own_column)
    is_tied = And (is_as_likely, is_lower)
    is_ahead = Or (is_likelier, is_tied)
    ahead = Cast <to = 7> (is_ahead)
    turn = ReduceSum <keepdims = 0> (ahead, two)
    half = Div (tokens, two)
    any_other = Mul (other_count, tokens)
    number = Min (merge, half, own_count, any_other)
    goes = Less (turn, number)

    # The new order: the prefix, the tokens that do not join, then the others. A product of ones counts exactly as well.
    stays = Not (goes)
    stay_ones = Cast <to = 1> (stays)
    not_higher = LessOrEqual (own_column, own_row)
    not_higher_ones = Cast <to = 1> (not_higher)
    stay_sums = MatMul (stay_ones, not_higher_ones)
    stay_count = Cast <to = 7> (stay_sums)
    before_own = Sub (prefix, one)
    stay_place = Add (stay_count, before_own)
    own_left = Sub (own_count, number)
    behind = Add (prefix, own_left)
    join_place = Add (to, behind)
    own_place = Where (goes, join_place, stay_place)
    other_place_row = Add (other_row, behind)
    other_shape = Concat <axis = 0> (images, other_count)
    other_place = Expand (other_place_row, other_shape)
    prefix_0d = Squeeze (prefix)
    prefix_row = Range (zero_0d, prefix_0d, one_0d)
    prefix_shape = Concat <axis = 0> (images, prefix)
    prefix_place = Expand (prefix_row, prefix_shape)
    moved_place = Concat <axis = 1> (prefix_place, own_place, other_place)
    # If no tokens merge, they keep their positions.
    own_step = Mul (own_row, two)
    other_step = Mul (other_row, two)
    own_was = Add (own_step, first)
    other_was = Add (other_step, joined)
    was = Concat <axis = 0> (prefix_row, own_was, other_was)
    is_still = Less (number, one)
    place = Where (is_still, was, moved_place)

    # A row of sizes for each new position. The tokens are in the order prefix, those that may join, the others.
    x_prefix = Slice ({whole}, zero, prefix, one)
    x_own = Slice ({whole}, first, tokens, one, two)
    x_other = Slice ({whole}, joined, tokens, one, two)
    x_sorted = Concat <axis = 1> (x_prefix, x_own, x_other)
    sizes_prefix = Slice (sizes, zero, prefix, one)
    sizes_own = Slice (sizes, first, tokens, one, two)
    sizes_other = Slice (sizes, joined, tokens, one, two)
    sizes_sorted = Concat <axis = 1> (sizes_prefix, sizes_own, sizes_other)
    left = Sub (tokens, number)
    left_0d = Squeeze (left)
    left_row = Range (zero_0d, left_0d, one_0d)
    left_column = Unsqueeze (left_row, one)
    place_row = Unsqueeze (place, one)
    is_there = Equal (left_column, place_row)
    sizes_row = Unsqueeze (sizes_sorted, one)
    shares = Where (is_there, sizes_row, nothing)
    merged_sizes = ReduceSum <keepdims = 0> (shares, two)
    sums = MatMul (shares, x_sorted)
    merged_column = Unsqueeze (merged_sizes, two)
    {y} = Div (sums, merged_column)
    {narrow}

    # The new positions, in the old order of the tokens.
    was_key, was_index = TopK <axis = 0, largest = 0> (was, tokens)
    place_by_token = Gather <axis = 1> (place, was_index)
    token_index = Cast <to = 7> (token)
    new_token = GatherElements <axis = 1> (place_by_token, token_index)
    merged_token = Cast <to = 6> (new_token)
"""
