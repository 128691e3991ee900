"""Count the memory accesses of the GPU kernels on the emulator, and print them as the table of benchmarks/gpu/README.md.

    $ PYTHONPATH=benchmarks:tests python tests/support/gpu_costs.py

It needs nvcc. The counts are those of the PTX for sm_80; ptxas may merge accesses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from command_line import table
from gpu.floors import Kept, kernel_bytes
from gpu_emulator import build_emulator
from on_gpu.emulator import Emulator
from on_gpu.library import KERNELS, TILE_PAIRS
from on_gpu.shape import Shape

PROCESSORS = 132  # of an H100
SHAPES = (
    Shape(8, 197, 8, 2, 52, 768, "bf16"),
    Shape(8, 197, 32, 2, 13, 768, "bf16"),
    Shape(1, 3000, 8, 2, 788, 768, "bf16"),
)
HEAD = ("kernel", "shape", "needed MB", "per launch", "per block", "sectors", "instructions", "shared cycles", "conflicts")
SECTOR_BYTES, KEY_BYTES, INDEX_BYTES = 32, 8, 4
NAMES = re.compile(r"(gates|sort_tiles|rank|route_dispatch|route|dispatch|combine)_kernel")


def put(emulator: Emulator, data: np.ndarray) -> int:
    """Copy data to the emulated GPU and return its address."""
    address = emulator.allocate(data.nbytes)
    emulator.library.call("copy", address, data.ctypes.data, data.nbytes)
    return address


def needed_bytes(shape: Shape, kept: Kept) -> dict[str, int]:
    """Return the bytes that each kernel must move: all inputs that it needs and all outputs, once."""
    ops = kernel_bytes(shape, kept)
    tiles = shape.groups * -(-shape.tokens // max(1, TILE_PAIRS // shape.choices))
    tile_results = shape.pairs * KEY_BYTES + tiles * (shape.experts + 1) * INDEX_BYTES
    router, all_gates = shape.hidden * shape.experts * 4, shape.all_tokens * shape.experts * 4
    return {
        "gates": shape.all_tokens * shape.hidden * 4 + router + all_gates,
        "route": ops["route"],
        "sort_tiles": all_gates + shape.pairs * 4 + shape.all_slots * INDEX_BYTES + tile_results,
        "rank": tile_results + shape.pairs * INDEX_BYTES + kept.pairs * INDEX_BYTES,
        "dispatch": ops["dispatch"],
        "route_dispatch": ops["route_dispatch"],
        "combine": ops["combine"],
    }


def rows(emulator: Emulator, shape: Shape) -> Iterator[tuple[str, ...]]:
    """Run all kernels at a shape, whose tokens are bfloat16, and yield the table's row for each."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((shape.all_tokens, shape.hidden), np.float32)
    router = rng.standard_normal((shape.hidden, shape.experts), np.float32) / np.float32(shape.hidden**0.5)
    tokens = (x.view(np.uint32) >> 16).astype(np.uint16)
    at = {"x": put(emulator, tokens), "out": put(emulator, np.resize(tokens, (shape.all_slots, shape.hidden)))}
    sizes = {"slot": 4 * shape.pairs, "weight": 4 * shape.pairs, "src": 4 * shape.all_slots, "y": tokens.nbytes}
    sizes |= {"gates": 4 * shape.all_tokens * shape.experts, "buf": shape.all_slots * shape.row_bytes}
    sizes["workspace"] = emulator.library.workspace_bytes(shape)
    at |= {name: emulator.allocate(size) for name, size in sizes.items()}
    emulator.configure(80, processors=PROCESSORS)
    costs: dict[str, dict[str, int]] = {}
    for op in ("gates", *KERNELS):
        emulator.count_costs(True)
        if op == "gates":
            inputs = put(emulator, x), put(emulator, router)
            emulator.library.call("gates", *inputs, shape.all_tokens, shape.hidden, shape.experts, at["gates"], 0)
        else:
            emulator.library.launch(op, shape, at, 0)
        for name, found in emulator.costs().items():
            match = NAMES.search(name)
            assert match is not None, name
            costs.setdefault(match[1], found)
    emulator.count_costs(False)
    assert emulator.faults() == []
    slot = np.empty((shape.all_tokens, shape.choices), np.int32)
    emulator.library.call("copy", slot.ctypes.data, at["slot"], slot.nbytes)
    needed = needed_bytes(shape, Kept(int((slot >= 0).sum()), int((slot >= 0).any(axis=1).sum())))
    for name, found in costs.items():
        cycles = found["shared_cycles"] + found["conflicts"]
        yield (
            name,
            str(shape).removesuffix(", D 768, bf16"),
            f"{needed[name] / 1e6:.2f}",
            f"{SECTOR_BYTES * found['launch_sectors'] / needed[name]:.2f}",
            f"{SECTOR_BYTES * found['distinct_sectors'] / needed[name]:.2f}",
            f"{SECTOR_BYTES * found['sectors'] / found['bytes']:.2f}",
            f"{found['instructions'] / shape.all_tokens:,.0f}",
            f"{cycles / shape.all_tokens:,.1f}" if cycles else "",
            f"{found['conflicts'] / cycles:.0%}" if cycles else "",
        )


def main() -> None:
    emulator = Emulator(build_emulator())
    print(*table(HEAD, [row for shape in SHAPES for row in rows(emulator, shape)]), sep="\n")


if __name__ == "__main__":
    main()
