"""The CPU paths that this processor supports according to the operating system's list of CPU features."""

from __future__ import annotations

import platform
from pathlib import Path

_AVX2 = {"pni", "pclmulqdq", "ssse3", "sse4_1", "sse4_2", "aes", "fma", "avx", "f16c", "bmi1", "avx2", "bmi2"}
_AVX512 = _AVX2 | {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}
_VNNI = _AVX512 | {"avx512_vnni"}
_BF16 = _VNNI | {
    *("avx512_bf16", "avx512vbmi", "avx512_vbmi2", "gfni", "vaes", "vpclmulqdq", "avx512_bitalg", "avx512_vpopcntdq")
}
_ARM = {"neon_bf16": {"asimddp", "i8mm", "bf16"}, "neon_i8mm": {"asimddp", "i8mm"}, "neon_dot": {"asimddp"}, "neon": set()}
_AMX = _BF16 | {"amx_bf16", "amx_tile", "amx_int8"}


def promised_paths() -> tuple[str, ...]:
    """Return the CPU paths that the features in /proc/cpuinfo allow, the best path first."""
    text = Path("/proc/cpuinfo").read_text()
    flags = next(set(line.partition(":")[2].split()) for line in text.splitlines() if line.startswith(("flags", "Features")))
    if platform.machine() == "aarch64":
        return (*(name for name, needs in _ARM.items() if needs <= flags), "scalar", "neon_bf16_emulated")
    in_order = [("amx", _AMX), ("avx512_vnni", _VNNI), ("avx512", _AVX512), ("avx2_vnni", _AVX2 | {"avx_vnni"})]
    in_order.insert(1 if "AuthenticAMD" in text else 2, ("avx512_bf16", _BF16))
    paths = [
        name for name, needs in (*in_order, ("avx2", _AVX2), ("scalar", set()), ("amx_emulated", _BF16)) if needs <= flags
    ]
    return tuple(paths)
