"""Check the GPU kernels' machine code.

It must not spill registers, and must move 16 bytes at a time where possible.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kept_build import kept
from sdk_build import built

PLUGINS = Path(__file__).parents[2] / "plugins"
KERNELS = {"gates": 4, "route": 9, "rows": 8}  # number of kernels in each source file; each type counts separately
REGISTERS, BLOCK_THREADS = 64, 512  # so a multiprocessor, with 65,536 registers, can hold two such blocks at once
GATES_REGISTERS, GATES_THREADS = 144, 32  # so 65,536 registers are enough for 14 such blocks
GATES, COPIED, COMBINED = 16, 4, 2  # gates per lane; words that a lane copies or combines at a time
# The number of 16-byte words that are loaded per step. Four of them contain four numbers of each of four tokens. For
# each of these four positions, two more words contain the weights of eight experts.
MULTIPLIED = 4 + 4 * 2

if not shutil.which("nvcc") or not shutil.which("c++filt"):
    pytest.skip("no nvcc, or no c++filt", allow_module_level=True)


@dataclass(frozen=True)
class Kernel:
    """A kernel compiled for one architecture.

    `loads` counts its instructions that load 16 bytes from device memory. `stores` counts those that store 16 bytes there.
    """

    name: str
    types: tuple[str, ...]
    architecture: str
    registers: int
    spilled: int
    threads: int
    loads: int
    stores: int

    @property
    def fits(self) -> bool:
        """Whether a multiprocessor can hold the planned number of blocks of this kernel at once."""
        registers, threads = (GATES_REGISTERS, GATES_THREADS) if self.name == "gates" else (REGISTERS, BLOCK_THREADS)
        return self.registers <= registers and self.threads <= threads

    @property
    def least_moves(self) -> tuple[int, int]:
        """The smallest expected values of `loads` and `stores`."""
        if self.name == "gates":
            return (MULTIPLIED if self.types[-1] == "Word16" else 0), 0
        copied = {"route_dispatch": COPIED, "dispatch": COPIED, "combine": COMBINED}.get(self.name, 0)
        if self.types[-1:] != ("Word16",) or self.name in ("route", "sort_tiles"):
            copied = 0
        gates = 0
        if self.name in ("route", "sort_tiles", "route_dispatch") and self.types[0] == "Word16":
            gates = GATES // 4
        return copied + gates, copied


@pytest.mark.slow
@pytest.mark.parametrize("source", KERNELS)
def test_kernels_fit_spill_nothing_and_move_whole_words(source: str) -> None:
    kernels = list(compile_kernels(source))
    assert len(kernels) == KERNELS[source] * len(architectures())
    assert any(one.least_moves > (0, 0) for one in kernels)
    wrong = {
        "too large": [one for one in kernels if not one.fits],
        "spilled": [one for one in kernels if one.spilled > 0],
        "words in pieces": [one for one in kernels if one.loads < one.least_moves[0] or one.stores < one.least_moves[1]],
    }
    assert not any(wrong.values()), wrong


def architectures() -> list[str]:
    """Return the GPU architectures for which the product contains machine code.

    They are numbers without the prefix "sm_".
    """
    listed = re.search(r"set\(VMOE_CUDA_ARCHITECTURES ([^\n]*)", (PLUGINS / "cmake" / "Prerequisites.cmake").read_text())
    assert listed is not None
    return re.findall(r"(\d+)-real", listed[1])


def compile_kernels(source: str) -> Iterator[Kernel]:
    """Compile all kernels in a source file for all architectures, with the product's options."""
    options = re.search(r"COMPILE_LANGUAGE:CUDA>:([^>]*)>", (PLUGINS / "cuda" / "CMakeLists.txt").read_text())
    assert options is not None
    command = ["nvcc", "-fatbin", "-std=c++17", "-O3", "-DNDEBUG", *options[1].split(";"), f"-I{PLUGINS}", "-Xptxas=-v"]
    command += [f"-gencode=arch=compute_{one},code=sm_{one}" for one in architectures()]
    compiled = kept(f"{source}.fatbin", *command, "--threads=2", "--keep", "--keep-dir=.", PLUGINS / "cuda" / f"{source}.cu")
    ptx = {(name, architecture): body for architecture, name, body in read_ptx(compiled.parent)}
    said = re.findall(
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers",
        Path(f"{compiled}.txt").read_text(),
        re.DOTALL,
    )
    plain = built("c++filt", text="\n".join(line[0] for line in said))
    for (mangled, architecture, stored, loaded, registers), name in zip(said, plain.splitlines(), strict=True):
        body = ptx[mangled, architecture]
        bound = re.search(r"\.maxntid (\d+)", body)
        parts = re.search(r"(\w+)_kernel(?:<(.*?)>)?\(", name)
        assert parts is not None, name
        yield Kernel(
            name=parts[1],
            types=tuple((parts[2] or "").replace("vmoe::cuda::", "").split(", ")),
            architecture=architecture,
            registers=int(registers),
            spilled=int(stored) + int(loaded),
            threads=int(bound[1]) if bound else 0,
            loads=len(re.findall(r"ld\.global[.\w:]*\.v4\.[bfu]32", body)),
            stores=len(re.findall(r"st\.global[.\w:]*\.v4\.[bfu]32", body)),
        )


def read_ptx(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the architecture, name and PTX text of each kernel that nvcc has written to a folder."""
    for path in folder.glob("*.ptx"):
        text = path.read_text()
        target = re.search(r"\.target sm_(\d+)", text)
        assert target is not None
        for entry in re.findall(r"\.entry (\w+)\((.*?)\n}", text, re.DOTALL):
            yield target[1], *entry
