"""What `--floors` prints: bytes, launches and floors for an H100, from the formulas alone."""

from __future__ import annotations

from cpu.report import table

from gpu.floors import BAR, H100_BYTES_PER_SECOND, KERNELS, floor_seconds, kernel_bytes, kernel_launches
from gpu.shapes import SETTINGS, SIZES, Type, shape_for, shape_of_kernel

_WIDTHS: tuple[Type, ...] = ("fp32", "bf16")  # float16 moves what bfloat16 moves


def floors_text() -> str:
    """Markdown."""
    lines = []
    for groups, tokens in SIZES:
        lines += [f"### {groups} x {tokens}" if groups > 1 else f"### {tokens}", "", *_size(groups, tokens), ""]
    return "\n".join(lines)


def _size(groups: int, tokens: int) -> list[str]:
    head = [
        "kernel",
        "E",
        "K",
        "C",
        "c",
        "launches",
        "MB fp32",
        "floor µs",
        f"{BAR} x",
        "MB 16 bits",
        "floor µs",
        f"{BAR} x",
    ]
    rows = []
    for kernel in KERNELS:
        for experts, choices, ratio in SETTINGS:
            row = [kernel, f"{experts}", f"{choices}", f"{ratio}"]
            for index, type in enumerate(_WIDTHS):
                shape = shape_of_kernel(kernel, shape_for(groups, tokens, experts, choices, ratio, type))
                moved = kernel_bytes(shape)[kernel]
                floor = floor_seconds(moved, H100_BYTES_PER_SECOND) * 1e6
                if index == 0:
                    row += [f"{shape.capacity}", f"{kernel_launches(shape)[kernel]}"]
                row += [f"{moved / 1e6:.3f}", f"{floor:.3f}", f"{BAR * floor:.3f}"]
            rows.append(row)
    return table(head, rows)
