"""What this machine could do at best: peaks and read rate, measured by floors.cpp, and a model's products and weights."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from command_line import BenchmarkError

from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.parameters import parameter_shapes

_SOURCE = Path(__file__).with_name("floors.cpp")
_OPTIONS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-pthread")
_PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "fp32": ("fp32",),
    # Widening bfloat16 and int8 to float32 is always possible, and on some CPUs faster than the vector instruction.
    "bf16": ("bf16_tiles", "bf16_vectors", "fp32"),
    "int8": ("int8_tiles", "int8_vectors", "fp32"),
}
_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Floors:
    """Operations a second of each kind of product that the CPU has, and bytes a second from memory, of all threads."""

    peaks: Mapping[str, float]
    read_bytes: float

    def flops(self, numbers: str) -> float:
        """The fastest way to multiply numbers of a type: "fp32", "bf16" or "int8"."""
        return max(self.peaks[name] for name in _PRODUCTS[numbers] if name in self.peaks)


def build_floors(folder: Path) -> Path:
    """Compiles floors.cpp into `folder`, for exactly this CPU.

    Raises:
        BenchmarkError: there is no C++ compiler, or it failed.
    """
    program, compiler = folder / "floors", shlex.split(os.environ.get("CXX", "c++"))
    try:
        command = [*compiler, *_OPTIONS, str(_SOURCE), "-o", str(program)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise BenchmarkError(f"there is no C++ compiler '{compiler[0]}'; the floors need one (on Debian: g++)") from None
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"{_SOURCE.name} does not compile: {error.stderr.strip()[:300]}") from None
    return program


def measure_floors(program: Path, threads: int) -> Floors:
    """Runs the loops on `threads` threads; some seconds."""
    done = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True)
    return Floors(**json.loads(done.stdout))


def least_ms(flops: Mapping[str, int], weight_bytes: int, floors: Floors) -> tuple[float, float]:
    """The least time for products, FLOPs by type, and for reading the weights."""
    products = sum(count / floors.flops(numbers) for numbers, count in flops.items())
    return 1e3 * products, 1e3 * weight_bytes / floors.read_bytes


def work_of(
    config: ModelConfig, numbers: tuple[str, str, str], batch: int, kept_pairs: int = 0, used_experts: int = 0
) -> tuple[dict[str, int], int]:
    """What a call at least has to multiply and to read: FLOPs of matrix products by type, and bytes of weights.

    Args:
        config: the model.
        numbers: the types of linear layers, of attention's own products and of experts; routers and head are float32.
        batch: images.
        kept_pairs: (token, expert) pairs with a slot, in all MoE layers.
        used_experts: experts with such a pair, in all MoE layers.

    Returns:
        FLOPs, two for each multiply-add, and bytes of the weights that the call can't do without.
    """
    linear, attention, experts = numbers
    tokens = batch * config.num_tokens
    rows_of = {"embedding": batch * math.prod(config.grid), "head": batch}
    flops = dict.fromkeys(_BYTES, 0)
    flops[attention] += config.num_layers * 4 * tokens * config.num_tokens * config.hidden_size
    weight_bytes = expert = 0
    for name, shape in parameter_shapes(config).items():
        size = math.prod(shape)
        if config.moe and "/Moe/Mlp/" in name:
            if name.startswith(f"Encoder/encoderblock_{config.moe.layers[0]}/"):
                expert += size // shape[0]
                flops[experts] += 2 * kept_pairs * (size // shape[0]) if name.endswith("/kernel") else 0
            continue
        always_float = not any(part in name for part in ("embedding/", "/SelfAttention/", "/Mlp/"))
        own = "fp32" if always_float else linear
        weight_bytes += _BYTES[own] * size
        if name.endswith("/kernel"):
            flops[own] += 2 * rows_of.get(name.partition("/")[0], tokens) * size
    return flops, weight_bytes + _BYTES[experts] * used_experts * expert
