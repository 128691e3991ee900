"""Run the kernels on random layers under compute-sanitizer, without torch.

python3 -m on_gpu.watched LIBRARY LAYERS SEED   compares RouteDispatch with Route and Dispatch
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from command_line import BenchmarkError, say

from on_gpu.library import TILE_PAIRS, Library
from on_gpu.shape import TYPE_BYTES, TYPES, Shape

_RESULTS = ("slot", "weight", "buf", "y")


def random_shape(draw: random.Random, index: int) -> Shape:
    """Return a shape with random sizes and a random type.

    In every fourth layer, groups are so large that several blocks sort a group.
    """
    experts = draw.choice([1, 2, 7, 8, 16, 32, 64, 256])
    choices = draw.randint(1, min(8, experts))
    low, high = (TILE_PAIRS // choices + 1, 5000 // choices) if index % 4 == 3 else (1, TILE_PAIRS // choices)
    tokens, type = draw.randint(low, high), draw.choice(TYPES)
    capacity = max(1, tokens * choices * draw.randint(5, 200) // 100 // experts)
    hidden = draw.choice([1, 3, 8, 24, 96])
    return Shape(draw.randint(1, 3), tokens, experts, choices, capacity, hidden, type, draw.random() < 0.5)


def check_layer(library: Library, shape: Shape, draw: random.Random) -> list[str]:
    """Run all kernels on blocks of memory of exactly the right size.

    Return the names of the results in which RouteDispatch differs from Route and Dispatch.
    """
    slots = shape.all_slots
    # gates are drawn from a set of random 32-bit patterns, some of which are NaN; a small set gives ties
    few = [draw.randbytes(4) for _ in range(draw.choice((4, 4096)))]
    inputs = {
        "gates": b"".join(draw.choices(few, k=shape.all_tokens * shape.experts)),
        "x": draw.randbytes(shape.all_tokens * shape.row_bytes),
        "out": draw.randbytes(slots * shape.row_bytes),
    }
    sizes = {name: len(data) for name, data in inputs.items()}
    sizes |= {"slot": 4 * shape.pairs, "weight": 4 * shape.pairs, "src": 4 * slots, "buf": sizes["out"], "y": sizes["x"]}
    sizes["workspace"] = library.workspace_bytes(shape)
    offset = draw.choice((0, 0, 0, TYPE_BYTES[shape.type]))  # misaligns the tokens
    offsets = {name: offset if name in ("x", "out", "buf", "y") else 0 for name in sizes}
    found = []
    for kernels in (("Route", "Dispatch", "Combine"), ("RouteDispatch", "Combine")):
        # Outputs remain uninitialized, so that initcheck detects kernels that read outputs before they write them.
        blocks = {name: allocate(library, size + offsets[name]) for name, size in sizes.items()}
        at = {name: block + offsets[name] for name, block in blocks.items()}
        for name, data in inputs.items():
            library.call("copy", at[name], data, len(data))
        for kernel in kernels:
            library.launch(kernel, shape, at, 0)
        library.call("synchronize")
        results = {name: ctypes.create_string_buffer(sizes[name]) for name in _RESULTS}
        for name, result in results.items():
            library.call("copy", result, at[name], sizes[name])
        found.append({name: result.raw for name, result in results.items()})
        for block in blocks.values():
            library.call("release", block)
    return [name for name in _RESULTS if found[0][name] != found[1][name]]


def allocate(library: Library, size: int) -> int:
    """Allocate `size` bytes on the GPU and return their address."""
    address = ctypes.c_void_p()
    library.call("allocate", ctypes.byref(address), size)
    return address.value or 0


def main(arguments: Sequence[str]) -> int:
    """Run the checks. Return 0, or 1 if a result is wrong or CUDA refuses a call."""
    path, layers, seed = arguments
    try:
        library = Library(Path(path))
        wrong = 0
        for index in range(int(layers)):
            draw = random.Random(f"{seed} {index}")
            shape = random_shape(draw, index)
            for name in check_layer(library, shape, draw):
                say(f"{name} of RouteDispatch is not that of Route and Dispatch at {shape}")
                wrong += 1
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    print(f"{layers} layers, seed {seed}: {wrong} tensors are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
