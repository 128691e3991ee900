"""Plants faults in the GPU kernels and in their callers. Tests on the GPU emulator must find each fault.

    $ PYTHONPATH=benchmarks:tests python tests/support/planted_gpu_faults.py [NAME ...]

`make hostile` also runs this program. Each fault is compiled and run on random calls until one of them fails. Run this
program after changing the kernels, their launches, the adapters or the emulator. It needs nvcc, and for faults of the
adapters the headers of TensorRT and ONNX Runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from cpu_paths import run_calls
from emulated_calls import problems
from emulated_op_library import build_op_library
from gpu_emulator import SMALL_GRID, Change, build_emulator
from moe_calls import MoeCall, moe_calls, reference, same_values
from on_gpu.emulator import Emulator
from on_gpu.kernel_cases import kernel_calls
from on_gpu.library import Library
from tensorrt_nodes import Node, build_plugin, needed_outputs

from vmoe_export.ops.table import ElementType

CALLS = 400
SORT, ROUTE, ROWS, COPY = "cuda/sort_tile.h", "cuda/route.cu", "cuda/rows.cu", "cuda/copy_row.h"
GATES, GATE_LAUNCH, WARP = "cuda/gate_program.h", "cuda/gates.cu", "cuda/warp.h"
TILE, PLAN = "cuda/tile.h", "cuda/route_plan.cc"
ADAPTER, PLUGIN = "onnxruntime/cuda_ops.cc", "tensorrt/plugin.cc"

CHUNKS, LAST_MERGE = "sort_chunks(pairs, keys, sorted);\n", "shared.offsets);\n"
BARRIER, NEXT_GROUP = "__syncthreads();\n", "__syncthreads();  // the next group"
GATE_SUM = "distance = kGateExperts / 2; distance > 0; distance /= 2) {\n    warp.exchange(mine"
PLUGIN_CALL = "{routing, sizes, types[ops::ValueType::kT], {}, {}, workspace, stream}"

KERNELS: dict[str, list[Change]] = {
    # barriers and exchanges
    "chunks are sorted without a barrier": [(SORT, f"{CHUNKS}  {BARRIER}", CHUNKS)],
    "a barrier is only of each warp": [(SORT, f"{CHUNKS}  {BARRIER}", f"{CHUNKS}  __syncwarp();\n")],
    "runs are merged without a barrier": [(SORT, f"{LAST_MERGE}    {BARRIER}", LAST_MERGE)],
    "the last thread misses a barrier": [
        (SORT, f"{CHUNKS}  {BARRIER}", f"{CHUNKS}  if (threadIdx.x + 1 < blockDim.x) {BARRIER}")
    ],
    "experts are chosen without a barrier": [(SORT, f"expert_of, keys);\n  {BARRIER}", "expert_of, keys);\n")],
    "threads without a pair return": [
        (
            ROUTE,
            "  const uint32_t group = blockIdx.x;",
            "  const uint32_t group = blockIdx.x;\n"
            "  if (threadIdx.x >= groups.tokens * groups.choices && threadIdx.x >= 128) return;",
        )
    ],
    "tiles follow without a barrier": [
        *SMALL_GRID,
        (ROUTE, f"= -1;\n    }}\n    {NEXT_GROUP}", "= -1;\n    }\n    // the next group"),
    ],
    "rows follow without a barrier": [
        *SMALL_GRID,
        (ROUTE, f"words);\n    }}\n    {NEXT_GROUP}", "words);\n    }\n    // the next group"),
    ],
    "the mask has half of the warp": [(WARP, "__shfl_xor_sync(0xffffffff", "__shfl_xor_sync(0x0000ffff")],
    "the mask has the lanes of the distance only": [
        (WARP, "__shfl_xor_sync(0xffffffff", "__shfl_xor_sync(distance == 16 ? 0xffffffff : (2u << distance) - 1")
    ],
    "an exchange of choices is left out": [(SORT, "distance = groups.lanes / 2;", "distance = groups.lanes / 4;")],
    "an exchange of gates is left out": [(GATES, GATE_SUM, GATE_SUM.replace("kGateExperts / 2;", "kGateExperts / 4;"))],
    # order and ties
    "a lane prefers the higher expert": [
        (SORT, "least_ = bits_[i] < bits ? i : least_;", "least_ = bits_[i] <= bits ? i : least_;")
    ],
    "lanes ignore the expert": [
        (
            SORT,
            "least = other < least ? other : least;",
            "least = (other >> 32) < (least >> 32) ? other : least;",
        )
    ],
    "the higher token comes first": [
        (SORT, "static_cast<Key>(gate_bits) << 16 | token;", "static_cast<Key>(gate_bits) << 16 | (token ^ 0xffffu);"),
        (SORT, "return static_cast<uint32_t>(key) & 0xffffu;", "return ~static_cast<uint32_t>(key) & 0xffffu;"),
    ],
    "chunks are sorted without tokens": [
        (SORT, "smaller += keys[j] < key ? 1 : 0;", "smaller += keys[j] >> 16 < key >> 16 ? 1 : 0;")
    ],
    "-0 is less than 0": [("core/gate_order.h", "gate != gate ? 0.0f : gate + 0.0f", "gate != gate ? 0.0f : gate")],
    "NaN is not 0": [("core/gate_order.h", "gate = gate != gate ? 0.0f : gate + 0.0f;", "gate = gate + 0.0f;")],
    "vanilla order has priorities": [(SORT, "if (choice == 0 && groups.batch_priority != 0)", "if (choice == 0)")],
    "BPR has no priorities": [(SORT, "if (choice == 0 && groups.batch_priority != 0)", "if (choice == 9)")],
    "a run is merged with a wrong one": [(SORT, "(run ^ 3u) * width}", "(run ^ 2u) * width}")],
    "each tile counts another one's keys": [(ROUTE, "      keys += groups.tile_stride();\n", "")],
    "all tiles have the offsets of the first": [(ROUTE, "      offsets += groups.experts + 1;\n", "")],
    "later tiles are all the second one": [
        (
            TILE,
            "const uint32_t first = index * tile_tokens;",
            "const uint32_t first = index > 1 ? tile_tokens : index * tile_tokens;",
        )
    ],
    # bounds and capacity
    "the capacity is one too large": [
        (ROUTE, "if (position >= groups.capacity) return -1;", "if (position > groups.capacity) return -1;")
    ],
    "an empty slot has a token": [
        (
            ROUTE,
            "if (position >= sorted.offsets[expert + 1] - begin) return -1;",
            "if (position > sorted.offsets[expert + 1] - begin) return -1;",
        )
    ],
    "the last slot is not emptied": [
        (
            ROUTE,
            "const uint32_t slots = groups.experts * groups.capacity;",
            "const uint32_t slots = groups.experts * groups.capacity - 1;",
        )
    ],
    "the last expert has no end": [
        (SORT, "for (uint32_t e = threadIdx.x; e <= experts;", "for (uint32_t e = threadIdx.x; e < experts;")
    ],
    "ranks have no last pair": [(ROUTE, "if (pair >= groups.tokens * groups.choices) return;", "")],
    "rows are read past their end": [(COPY, "if (w < words && source != nullptr) batch", "if (source != nullptr) batch")],
    "rows are written past their end": [(COPY, "if (w < words) target[w]", "target[w]")],
    "sources are not checked": [(ROWS, "token >= 0 && static_cast<size_t>(token) < tokens", "token >= 0")],
    "slots are not checked": [(ROWS, "index < 0 || static_cast<size_t>(index) >= shape.slots", "index < 0")],
    "combine has no last token": [(ROWS, "if (token >= shape.tokens) return;", "")],
    "dispatch has no last slot": [(ROWS, "if (slot >= slots) return;", "")],
    "gates read tokens past the last one": [
        (GATES, "if (first_token + t < shape.tokens && first + i < shape.hidden)", "if (first + i < shape.hidden)")
    ],
    "all blocks write the choices": [(ROUTE, "const bool is_first = blockIdx.x == 0;", "const bool is_first = true;")],
    # memory and launches
    "shared memory has no last offset": [
        (PLAN, "(groups.experts + 1) * sizeof(uint32_t);\n}", "groups.experts * sizeof(uint32_t);\n}")
    ],
    "shared memory has one buffer": [(PLAN, "size_t{2} * groups.tile_stride()", "size_t{1} * groups.tile_stride()")],
    "the buffers overlap": [(ROUTE, "shared_keys + stride, re", "shared_keys + stride - 1, re")],
    "parts of the workspace overlap": [
        (
            PLAN,
            "round_up(tiles * groups.tile_stride() * sizeof(Key), kAlignment);",
            "round_up(tiles * groups.tile_stride() * sizeof(Key), kAlignment) - kAlignment;",
        )
    ],
    "words need not be aligned": [
        (
            "cuda/words.h",
            "row_bytes % sizeof(Word16) == 0 && reinterpret_cast<uintptr_t>(rows) % sizeof(Word16) == 0",
            "row_bytes % sizeof(Word16) == 0",
        )
    ],
    "blocks have parts of warps": [
        (PLAN, "static_cast<unsigned>(round_up(useful, kWarp))", "static_cast<unsigned>(useful)")
    ],
    "a launch has too many threads": [
        (ROUTE, "rows), kRankThreads, 0, stream>>>", "rows), kRankThreads + 32, 0, stream>>>")
    ],
    "a tile exceeds shared memory": [("cuda/route_plan.h", "kTilePairs = 2048", "kTilePairs = 4096")],
    "the grid of rows is rounded down": [
        ("cuda/launch.h", "(rows + rows_per_block - 1) / rows_per_block)", "std::max<size_t>(1, rows / rows_per_block))")
    ],
    "lanes share words of a row": [
        (ROWS, "copy_row(threadIdx.x, blockDim.x, words,", "copy_row(threadIdx.x, blockDim.x - 1, words,")
    ],
    "blocks of gates overlap": [(GATE_LAUNCH, "(blockIdx.x) * kGateTokens", "(blockIdx.x) * (kGateTokens - 1)")],
    "a launch is on another stream": [
        (GATE_LAUNCH, "<<<blocks, kGateLanes, 0, stream>>>", "<<<blocks, kGateLanes, 0, cudaStreamPerThread>>>")
    ],
    # rounding and the order of sums
    "halves are rounded to zero": [("core/element.h", "__float2half_rn(value)", "__float2half_rz(value)")],
    "bfloat16 is cut off": [
        (
            "core/element.h",
            "__bfloat16_as_ushort(__float2bfloat16_rn(value))",
            "static_cast<uint16_t>(__float_as_uint(value) >> 16)",
        )
    ],
    "small halves are 0": [
        (
            "core/element.h",
            "return __half2float(__ushort_as_half(value.bits));",
            "return __uint_as_float(static_cast<uint32_t>(value.bits & 0x8000) << 16 | "
            "((value.bits & 0x7fff) ? ((value.bits & 0x7fffu) << 13) + (112u << 23) : 0));",
        )
    ],
    "a sum starts at 0": [(ROWS, "sum[i][j] = k == 0 ? product : sum[i][j] + product;", "sum[i][j] = sum[i][j] + product;")],
    "gates round each product": [(GATES, "return __fmaf_rn(a, b, c);", "return a * b + c;")],
    "gates are added in another order": [
        (
            GATES,
            GATE_SUM,
            GATE_SUM.replace(
                "distance = kGateExperts / 2; distance > 0; distance /= 2",
                "distance = 1; distance < kGateExperts; distance *= 2",
            ),
        )
    ],
    "gates divide the depth otherwise": [
        (GATES, "inline constexpr uint32_t kGateDepth = 4;", "inline constexpr uint32_t kGateDepth = 8;")
    ],
    "exp is 0 a little later": [(GATES, "if (x < -86.6f) return 0.0f;", "if (x < -87.0f) return 0.0f;")],
    "exp has a term less": [(GATES, "float power = 1.0f / 5040;", "float power = 0;")],
}

NODES: dict[str, list[Change]] = {
    "plugin: no stream": [(PLUGIN, PLUGIN_CALL, PLUGIN_CALL.replace("stream}", "nullptr}"))],
    "plugin: half of the workspace": [(PLUGIN, "op_.workspace_bytes(routing) : 0", "op_.workspace_bytes(routing) / 2 : 0")],
    "plugin: the workspace is an input": [
        (PLUGIN, PLUGIN_CALL, PLUGIN_CALL.replace("workspace", "const_cast<void*>(inputs[0])"))
    ],
    "plugin: the last output is missing": [
        (PLUGIN, "std::copy_n(outputs, op_.spec.needed_outputs()", "std::copy_n(outputs, op_.spec.needed_outputs() - 1")
    ],
    "plugin: inputs are exchanged": [
        (PLUGIN, "call.inputs[inputs_[i]] = inputs[i];", "call.inputs[inputs_[inputs_.size() - 1 - i]] = inputs[i];")
    ],
    "plugin: all tokens are float32": [(PLUGIN, "types[ops::ValueType::kT], {}", "ElementType::kFloat32, {}")],
    "plugin: waits for the stream": [
        (
            PLUGIN,
            "    const cudaError_t error = op_.put(call);",
            "    const cudaError_t error = op_.put(call);\n    static_cast<void>(cudaDeviceSynchronize());",
        )
    ],
    "ops: rows have elements of 2 bytes": [("cuda/op_calls.h", "sizes['D'] * bytes_of(tokens)", "sizes['D'] * 2")],
    "ops: combine has the slots of one expert": [
        (
            "cuda/op_calls.cc",
            "sizes['E'] * sizes['M'], call.data<int32_t>(Input::kSlot)",
            "sizes['M'], call.data<int32_t>(Input::kSlot)",
        )
    ],
}

OP_LIBRARY: dict[str, list[Change]] = {
    "op library: no stream": [(ADAPTER, "scratch.data(), stream}", "scratch.data(), nullptr}")],
    "op library: half of the workspace": [
        (ADAPTER, "const Scratch scratch(call, stream, bytes);", "const Scratch scratch(call, stream, bytes / 2);")
    ],
    "op library: the last output is missing": [
        (ADAPTER, "i < call.spec().outputs.size()", "i + 1 < call.spec().outputs.size()")
    ],
    "op library: experts are not written": [("cuda/op_calls.cc", "call.output<int32_t>(Output::kExpert)", "nullptr")],
    "op library: all tokens are float16": [(ADAPTER, "call.types()[ops::ValueType::kT]", "ElementType::kFloat16")],
}


def found_in_kernels(name: str, changes: Sequence[Change]) -> str | None:
    """Return how a fault of the kernels was found, or None."""
    gpu, trusted = Emulator(build_emulator(name, changes=changes)), Library(build_emulator())
    for number, call in enumerate(kernel_calls(gpu.library, 1, CALLS)):
        if found := problems(gpu, call, (80, 100)[number % 2], orders=[2], seed=number, trusted=trusted):
            return f"call {number}: {found[0]}"
    return None


def adapter_calls(seed: int) -> Iterator[MoeCall]:
    """Yield calls of every op and type. The first calls have groups of several tiles, and therefore a workspace."""
    rng = np.random.default_rng(seed)
    gates, x = rng.random((2, 1500, 8), np.float32), rng.random((2, 1500, 3), np.float32)
    for type in (np.float32, np.float16):
        inputs = {"gates": gates, "x": x.astype(type)}
        tokens: ElementType = "float" if type is np.float32 else "fp16"
        yield MoeCall("VmoeRouteDispatch", tokens, inputs, {"capacity": 300, "k": 2, "bpr": 1})
    yield MoeCall("VmoeRoute", "float", {"gates": gates}, {"capacity": 300, "k": 2, "bpr": 1})
    yield from moe_calls(seed, 12)


def found_in_plugin(name: str, changes: Sequence[Change]) -> str | None:
    gpu = build_plugin(name, changes)
    for call in adapter_calls(21):
        node = Node(gpu, call)
        try:
            node.enqueue()
            if not same_values(node.results(), reference(call)[: len(needed_outputs(call.op))]):
                return f"{call}: an output is wrong"
            node.capture()
        except AssertionError as error:
            return f"{call}: {error}"
    return None


def found_in_op_library(name: str, changes: Sequence[Change]) -> str | None:
    library = build_op_library(name, changes)
    for call in adapter_calls(22):
        (outputs,) = run_calls([call.call], library=library)
        if isinstance(outputs, str):
            return f"{call}: {outputs}"
        if any(output is None for output in outputs) or not same_values(list(outputs), call.expected):
            return f"{call}: an output is wrong"
    return None


def main(names: Sequence[str]) -> int:
    """Plant the named faults, or all. Return 1 if one of them is not found."""
    searches: list[tuple[dict[str, list[Change]], Callable[[str, Sequence[Change]], str | None]]] = [
        (KERNELS, found_in_kernels),
        (NODES, found_in_plugin),
        (OP_LIBRARY, found_in_op_library),
    ]
    work = [(name, changes, search) for faults, search in searches for name, changes in faults.items()]
    work = [each for each in work if not names or each[0] in names]
    missed, skipped = 0, 0
    for name, changes, search in work:
        try:
            found = search(_file_name(name), changes)
        except pytest.skip.Exception as reason:
            print(f"skipped: {name}: {reason}", flush=True)
            skipped += 1
            continue
        print(f"found: {name}: {found.splitlines()[0][:200]}" if found else f"MISSED: {name}", flush=True)
        missed += found is None
    print(f"{len(work) - missed - skipped} of {len(work)} faults found, {skipped} skipped")
    return 1 if missed else 0


def _file_name(fault: str) -> str:
    return "fault_" + "".join(letter if letter.isalnum() else "_" for letter in fault)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
