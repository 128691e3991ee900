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
from gpu_emulator import Change, Emulator, build_emulator
from moe_calls import MoeCall, moe_calls, reference, same_values
from on_gpu.kernel_cases import kernel_calls
from on_gpu.library import Library
from tensorrt_nodes import Node, build_plugin, needed_outputs

from vmoe_export.ops.table import ElementType

CALLS = 400
BLOCK, ROUTE, GATES, ROWS = ("cuda/gpu_block.h", "cuda/route_phases.h", "cuda/gate_phases.h", "cuda/row_phases.h")
PROGRAM, PLAN, ADAPTER, PLUGIN = (
    "cuda/route_program.h",
    "cuda/route_plan.cc",
    "onnxruntime/cuda_ops.cc",
    "tensorrt/plugin.cc",
)

PHASE = "    function(threadIdx.x, blockDim.x);\n    __syncthreads();"
GATE_SUM = "distance = kGateExperts / 2; distance > 0; distance /= 2) {\n    team.exchange(mine"
PLUGIN_CALL = "{routing, sizes, types[ops::ValueType::kT], {}, {}, workspace, stream}"

KERNELS: dict[str, list[Change]] = {
    # barriers and exchanges
    "a phase ends without a barrier": [(BLOCK, PHASE, "    function(threadIdx.x, blockDim.x);")],
    "a phase ends with a barrier of each warp": [(BLOCK, PHASE, PHASE.replace("__syncthreads", "__syncwarp"))],
    "the last thread misses the barriers": [
        (BLOCK, PHASE, PHASE.replace("    __sync", "    if (threadIdx.x + 1 < blockDim.x) __sync"))
    ],
    "experts are chosen without a barrier": [
        (BLOCK, "function(GpuTeam(lanes));\n    __syncthreads();", "function(GpuTeam(lanes));")
    ],
    "threads without a pair return": [
        (
            "cuda/route.cu",
            "  route_group(GpuBlock{}",
            "  if (threadIdx.x >= groups.tokens * groups.choices && threadIdx.x >= 128) return;\n  route_group(GpuBlock{}",
        )
    ],
    "the mask has half of the warp": [(BLOCK, "kWholeWarp = 0xffffffff", "kWholeWarp = 0x0000ffff")],
    "the mask has the first team only": [
        (
            BLOCK,
            "kWholeWarp, static_cast<unsigned long long>",
            "lanes_ == 32 ? kWholeWarp : (1u << lanes_) - 1, static_cast<unsigned long long>",
        )
    ],
    "an exchange of choices is left out": [(ROUTE, "distance = tile.lanes / 2;", "distance = tile.lanes / 4;")],
    "an exchange of gates is left out": [(GATES, GATE_SUM, GATE_SUM.replace("kGateExperts / 2;", "kGateExperts / 4;"))],
    # order and ties
    "a lane prefers the higher expert": [
        (ROUTE, "least_ = bits_[i] < bits ? i : least_;", "least_ = bits_[i] <= bits ? i : least_;")
    ],
    "lanes ignore the expert": [
        (
            ROUTE,
            "other[lane] < least[lane] ? other[lane] : least[lane]",
            "(other[lane] >> 32) < (least[lane] >> 32) ? other[lane] : least[lane]",
        )
    ],
    "the higher token comes first": [
        (ROUTE, "static_cast<Key>(gate_bits) << 16 | token;", "static_cast<Key>(gate_bits) << 16 | (token ^ 0xffffu);"),
        (ROUTE, "return static_cast<uint32_t>(key) & 0xffffu;", "return ~static_cast<uint32_t>(key) & 0xffffu;"),
    ],
    "chunks are sorted without tokens": [
        (ROUTE, "smaller += keys.load(j) < key ? 1 : 0;", "smaller += keys.load(j) >> 16 < key >> 16 ? 1 : 0;")
    ],
    "-0 is less than 0": [("core/gate_order.h", "gate != gate ? 0.0f : gate + 0.0f", "gate != gate ? 0.0f : gate")],
    "NaN is not 0": [("core/gate_order.h", "gate = gate != gate ? 0.0f : gate + 0.0f;", "gate = gate + 0.0f;")],
    "vanilla order has priorities": [(ROUTE, "if (choice == 0 && tile.batch_priority != 0)", "if (choice == 0)")],
    "BPR has no priorities": [(ROUTE, "if (choice == 0 && tile.batch_priority != 0)", "if (choice == 9)")],
    "a run is merged with a wrong one": [(ROUTE, "(run ^ 3u) * width}", "(run ^ 2u) * width}")],
    "each tile counts another one's keys": [
        (ROUTE, "const size_t first = other * tile_stride;", "const size_t first = first_tile * tile_stride;")
    ],
    "tiles read offsets of the tile before": [
        (
            ROUTE,
            "const size_t offset = other * (tile.experts + 1) + expert;",
            "const size_t offset = (other > first_tile ? other - 1 : other) * (tile.experts + 1) + expert;",
        )
    ],
    "later tiles are all the second one": [
        (
            PROGRAM,
            "const uint32_t first = index * tile_tokens;",
            "const uint32_t first = index > 1 ? tile_tokens : index * tile_tokens;",
        )
    ],
    # bounds and capacity
    "the capacity is one too large": [
        (ROUTE, "if (position >= tile.capacity) return -1;", "if (position > tile.capacity) return -1;")
    ],
    "an empty slot has a token": [
        (
            ROUTE,
            "if (position >= offsets.load(expert + 1) - begin) return -1;",
            "if (position > offsets.load(expert + 1) - begin) return -1;",
        )
    ],
    "the last slot is not emptied": [
        (
            ROUTE,
            "index = tile_index * threads + thread; index < tile.group_slots()",
            "index = tile_index * threads + thread; index + 1 < tile.group_slots()",
        )
    ],
    "the last expert has no end": [
        (
            ROUTE,
            "e <= tile.experts; e += threads) {\n    offsets.store(",
            "e < tile.experts; e += threads) {\n    offsets.store(",
        )
    ],
    "ranks have no last pair": [(PROGRAM, "if (pair >= groups.tokens * groups.choices) return;", "")],
    "rows are read past their end": [(ROWS, "if (w < words && source >= 0) batch", "if (source >= 0) batch")],
    "rows are written past their end": [(ROWS, "if (w < words) buf.store", "buf.store")],
    "sources are not checked": [(ROWS, "source >= 0 && static_cast<size_t>(source) < tokens", "source >= 0")],
    "slots are not checked": [(ROWS, "index < 0 || static_cast<size_t>(index) >= slots", "index < 0")],
    "combine has no last token": [("cuda/rows.cu", "if (token >= shape.tokens) return;", "")],
    "dispatch has no last slot": [("cuda/rows.cu", "if (index >= slots) return;", "")],
    "gates read tokens past the last one": [
        (GATES, "if (first_token + t < shape.tokens && first + i < shape.hidden)", "if (first + i < shape.hidden)")
    ],
    "all blocks write the choices": [(PROGRAM, "const bool is_first = place.x == 0;", "const bool is_first = true;")],
    # memory and launches
    "shared memory has no last offset": [
        (PLAN, "(groups.experts + 1) * sizeof(uint32_t);\n}", "groups.experts * sizeof(uint32_t);\n}")
    ],
    "shared memory has one buffer": [(PLAN, "size_t{2} * groups.tile_stride()", "size_t{1} * groups.tile_stride()")],
    "the buffers overlap": [("cuda/route.cu", "{shared_keys + stride}", "{shared_keys + stride - 1}")],
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
        ("cuda/route.cu", "rows), kRankThreads, 0, stream>>>", "rows), kRankThreads + 32, 0, stream>>>")
    ],
    "a tile exceeds shared memory": [("cuda/route_plan.h", "kTilePairs = 2048", "kTilePairs = 4096")],
    "the grid of rows is rounded down": [
        ("cuda/launch.h", "(rows + rows_per_block - 1) / rows_per_block)", "std::max<size_t>(1, rows / rows_per_block))")
    ],
    "lanes share words of a row": [
        ("cuda/rows.cu", "dispatch_row(threadIdx.x, blockDim.x, words,", "dispatch_row(threadIdx.x, blockDim.x - 1, words,")
    ],
    "a launch is on another stream": [
        ("cuda/gates.cu", "<<<blocks, kGateLanes, 0, stream>>>", "<<<blocks, kGateLanes, 0, cudaStreamPerThread>>>")
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
