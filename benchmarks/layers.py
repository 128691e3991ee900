"""Show where a V-MoE B/16 spends the time of a call at C = 0.3 and k = 1, and the least possible time.

    python benchmarks/layers.py [--batch 1] [--threads 2] [--precision bf16] [--merge 8] [--rounds 30]

The times are medians over the calls. They come from ONNX Runtime's profile of the bundle's ops. The least time that this
machine could take for a layer is called the layer's floor. It is the larger of two times:

- the time to read the layer's weights once at the memory rate, counting only experts that got a token
- the time to compute the layer's multiply-adds at the peak rate

The memory rate is measured with numpy: each thread takes the maximum of its part of 2 GB. The peak rate is the rate of the
op for dense MLPs on 16 images, where the matrix products have many rows. If the weights are integers, the products inside
attention (of queries, keys and values) still run in bfloat16. Their floor therefore uses the peak rate of bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import timeit
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from command_line import count, table
from cpu.models import prepare
from cpu.timing import MAX_OTHERS_SHARE, OthersWatch, memory_rate

import vmoe_runtime
from vmoe_measure.flops import ModelShape, flops_by_kind
from vmoe_runtime import Engine
from vmoe_tools.bench.quality import computed_pairs
from vmoe_tools.machine import cpu_model

_KINDS = {"VmoeAttentionBlock": "attention", "VmoeMlpBlock": "dense MLPs", "VmoeExpertBlock": "experts"}
_REST = "everything else"
_PROFILE, _WARM_UP, _MANY_IMAGES = "c0.3-k1", 3, 16


def profiled(path: Path, feeds: Mapping[str, Any], threads: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds per call that are spent in each kind of layer, and in the gaps between ops."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.register_custom_ops_library(vmoe_runtime.library_path())
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(str(path / "model.onnx"), options, providers=["CPUExecutionProvider"])
        calls = timeit.repeat(lambda: session.run(["logits"], dict(feeds)), number=1, repeat=_WARM_UP + rounds)
        events = json.loads(Path(session.end_profiling()).read_text())
    ms, turns = defaultdict[str, Any](lambda: np.zeros(len(calls))), Counter[str]()
    for event in (event for event in events if event["name"].endswith("_kernel_time")):
        ms[_KINDS.get(event["args"]["op_name"], _REST)][turns[event["name"]]] += event["dur"] / 1e3
        turns[event["name"]] += 1
    ms["between ops"] = 1e3 * np.array(calls) - sum(ms.values())
    return {kind: float(np.median(values[_WARM_UP:])) for kind, values in ms.items()}


def bytes_read(path: Path, used: Mapping[str, float]) -> Counter[str]:
    """Return how many bytes of weights a call reads, by kind of layer.

    For experts, `used` is the share of each block's experts that got a token. Only this share of the experts' bytes is
    counted.
    """
    graph, total = onnx.load(path / "model.onnx", load_external_data=False).graph, Counter[str]()
    width = {t.name: onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in graph.initializer}
    width |= {t.name: 0.5 for t in graph.initializer if t.data_type == onnx.TensorProto.INT4}
    sizes = {t.name: math.prod(t.dims) * width[t.name] for t in graph.initializer}
    for node in graph.node:
        kind = _KINDS.get(node.op_type, _REST)
        share = used[node.name.partition("/")[0]] if kind == "experts" else 1.0
        total[kind] += round(share * sum(sizes.get(name, 0) for name in node.input))
    return total


def multiply_adds(shape: ModelShape, merge: int, kept: float) -> dict[str, tuple[float, float]]:
    """Return the number of multiply-adds per image, by kind of layer.

    Each entry has two numbers: for products with weights, and for products with keys and values. `kept` is the number of
    token-expert pairs per image that are computed.
    """
    flops = flops_by_kind(shape, [kept, *(0 for _ in shape.moe_layers[1:])], merge)
    found = {kind: count / 2 for kind, count in flops.items()}
    return {
        "attention": (found["projections"], found["tokens"]),
        "dense MLPs": (found["dense"], 0),
        "experts": (found["experts"], 0),
        _REST: (found["others"], 0),
    }


def products_peak(path: Path, shape: ModelShape, images: Any, threads: int) -> float:
    """Return the peak rate, in multiply-adds per ms. It is the rate of a bundle's dense MLPs on many images.

    The images run with a profile that has so few slots that the experts have almost no work.
    """
    with Engine.load(path, backend="onnxruntime", threads=threads, verify=False) as engine:
        profile = engine.setting(_PROFILE)
        assert profile is not None
        ms = profiled(path, {"image": images} | dict(profile.inputs), threads, 3)["dense MLPs"]
    return len(images) * multiply_adds(shape, 0, 0)["dense MLPs"][0] / ms


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 1 if other processes used too large a share of the CPUs."""
    parser = argparse.ArgumentParser(description="Show where a V-MoE B/16 spends its time.")
    parser.add_argument("--batch", type=count, default=1, help="images per call (default: 1)")
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8", "int4"), default="bf16")
    parser.add_argument("--merge", type=int, default=0, help="tokens that each block merges (default: 0)")
    parser.add_argument("--rounds", type=count, default=30, help="timed calls (default: 30)")
    given = parser.parse_args(arguments)
    model = prepare("b16", Path("build", "speed", "work"))
    path, many = model.bundle("sparse", given.precision), model.images(_MANY_IMAGES)
    images = model.images(given.batch)
    with Engine.load(path, backend="onnxruntime", threads=given.threads, verify=False) as engine:
        profile = engine.setting(_PROFILE, merge=given.merge)
        assert profile is not None
        routes, settings = engine.routing(images, profile), dict[str, Any](profile.inputs)
        shape, runtime = ModelShape.of(engine.manifest.model), engine.backend_description
    pairs = {name: route.expert[route.kept] for name, route in computed_pairs(routes, shape).items()}
    used = {name: len(np.unique(experts)) / shape.router_columns[0] for name, experts in pairs.items()}
    kept = sum(map(len, pairs.values()))
    with OthersWatch() as others:
        rate = memory_rate(given.threads)
        peaks = [
            products_peak(bundle, shape, many, given.threads)
            for bundle in (path, model.bundle("sparse", "bf16") if given.precision.startswith("int") else path)
        ]
        taken = profiled(path, {"image": images} | settings, given.threads, given.rounds)
    read, products = bytes_read(path, used), multiply_adds(shape, given.merge, kept / given.batch)
    rows: list[Any] = []
    for kind, ms in sorted(taken.items(), key=lambda item: -item[1]):
        macs = [given.batch * image_macs for image_macs in products.get(kind, (0, 0))]
        floor = max(read[kind] / rate, sum(macs[i] / peaks[i] for i in range(2)))
        rows.append((kind, ms, read[kind] / 1e6, sum(macs) / 1e6, floor))
    rows.append(("the call", *np.sum([row[1:] for row in rows], axis=0)))
    called = f"{given.precision}, batch {given.batch}, R = {given.merge}, {kept:,} pairs"
    print(f"{cpu_model()}, {given.threads} threads, {runtime}; {called}.")
    print(f"Memory {rate / 1e6:.1f} GB/s, peak {peaks[0] / 1e6:,.0f} GMAC/s. Other processes took {others.share:.0%}.\n")
    head = ["", "ms", "MB of weights", "million multiply-adds", "floor, ms", "floor / time"]
    form = ("{}", "{:.2f}", "{:.1f}", "{:,.0f}", "{:.2f}", "{:.0%}")
    shown = [[part.format(value) for part, value in zip(form, (*row, row[4] / row[1]), strict=True)] for row in rows]
    print(*table(head, shown), sep="\n")
    return int(others.share > MAX_OTHERS_SHARE)


if __name__ == "__main__":
    sys.exit(main())
