"""Checks that a GPU gives the kernels' outputs the bits that the emulator gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice

import numpy as np
from command_line import BenchmarkError, say

from on_gpu.check import Check, first_line
from on_gpu.device import Device
from on_gpu.emulator import Emulator, dialect_of
from on_gpu.kernel_call import KernelCall, PlacedCall, Tensors
from on_gpu.kernel_cases import LARGE, kernel_calls, large_call
from on_gpu.library import Library, kernel_launches
from on_gpu.memory import GuardedMemory

STREAMS, LAUNCHES_PER_STREAM = 8, 20
GRAPHS, REPLAYS = 40, 4


def check_exactness(
    tell: Callable[[Check], None], device: Device, kernels: Library, emulator: Emulator, seed: int, count: int
) -> None:
    """Compare the kernels with the emulator bit for bit: alone, on several streams, and in CUDA graphs.

    Args:
        tell: receives each result as soon as it is known. The first is that of `count` random calls.
        device: the GPU.
        kernels: the library for the GPU.
        emulator: the emulator of the GPU's dialect of PTX.
        seed: seed of the random calls.
        count: number of random calls.
    """
    calls = _Calls(device, kernels, emulator, seed)
    steps: dict[str, Callable[[], Check]] = {
        "random calls": lambda: calls.check("random calls", kernel_calls(kernels, seed, count)),
        "large calls": lambda: calls.check("large calls", (large_call(kernels, large) for large in LARGE)),
        "streams": calls.check_streams,
        "graphs": calls.check_graphs,
    }
    for name, step in steps.items():
        say(f"exactness: {name}, seed {seed}")
        try:
            tell(step())
        except (BenchmarkError, RuntimeError) as error:
            tell(Check(name, 1, (first_line(error),)))


class _Calls:
    """The same calls on a GPU and in the emulator."""

    def __init__(self, device: Device, kernels: Library, emulator: Emulator, seed: int) -> None:
        self._device, self._kernels, self._emulator, self._seed = device, kernels, emulator, seed
        self._memory = GuardedMemory(kernels)
        self._dialect = dialect_of(device.architecture)

    def check(self, name: str, calls: Iterable[KernelCall]) -> Check:
        """Run each call alone. Stop at the first GPU error, because no kernel can run after it."""
        count, failures = 0, list[str]()
        for call in calls:
            count += 1
            try:
                found = call.run(self._kernels, self._memory)
            except RuntimeError as error:
                failures.append(f"call {count}, {call}: {first_line(error)}")
                break
            failures += [f"call {count}, {call}: {what}" for what in self._faults_of(call, found)]
        return Check(name, count, tuple(failures))

    def check_streams(self) -> Check:
        """Run several calls repeatedly and at the same time, each on its own stream with its own memory."""
        calls = list(kernel_calls(self._kernels, self._seed + 1, STREAMS))
        placed = [self._place(call) for call in calls]

        def work(each: PlacedCall) -> None:
            for _ in range(LAUNCHES_PER_STREAM):
                each.launch(self._device.stream())

        self._device.on_streams([partial(work, each) for each in placed])
        return Check("several streams at once", len(calls), self._end(calls, placed))

    def check_graphs(self) -> Check:
        """Capture each call in a CUDA graph, count the graph's nodes, and replay it on other inputs.

        If a call allocates or synchronizes, it can't be captured.
        """
        rng, failures, count = np.random.default_rng(self._seed), list[str](), 0
        for call in kernel_calls(self._kernels, self._seed + 2, GRAPHS):
            placed = self._place(call)
            replay = self._device.capture(lambda placed=placed: placed.launch(self._device.stream()))
            nodes, wanted = self._nodes(placed), kernel_launches(call.shape)[call.op]
            if nodes != wanted:
                failures.append(f"{call}: {nodes} launches instead of {wanted}")
            for other in islice(iter(partial(call.shuffled, rng), None), REPLAYS):
                placed.set(other.inputs)
                replay()
                self._device.synchronize()
                failures += [f"{other}, replayed: {what}" for what in self._faults_of(other, placed.outputs())]
                count += 1
            placed.release()
        return Check("CUDA graphs replayed on other inputs", count, (*failures, *self._memory.take_faults()))

    def _place(self, call: KernelCall) -> PlacedCall:
        return PlacedCall(call, self._kernels, self._memory)

    def _nodes(self, placed: PlacedCall) -> int:
        """Return the number of launches of a call. The call has been launched before, so that its code is loaded."""
        counted = list[int]()

        def work() -> None:
            stream = self._device.stream()
            counted.append(self._kernels.count_launches(stream, lambda: placed.launch(stream)))

        self._device.on_streams([work])
        return counted[0]

    def _end(self, calls: Sequence[KernelCall], placed: Sequence[PlacedCall]) -> tuple[str, ...]:
        """Compare the outputs of calls, and release their memory."""
        failures = []
        for call, each in zip(calls, placed, strict=True):
            failures += [f"{call}, beside others: {what}" for what in self._faults_of(call, each.outputs())]
            each.release()
        return (*failures, *self._memory.take_faults())

    def _faults_of(self, call: KernelCall, found: Tensors) -> list[str]:
        """Run a call in the emulator, and return how the GPU's outputs differ. Include faults that either one reports."""
        self._emulator.configure(self._dialect, processors=call.processors)
        wanted = call.run(self._emulator.library, self._emulator)
        emulated = [f"in the emulator: {fault}" for fault in self._emulator.faults()]
        return call.differences(found, wanted) + emulated + self._memory.take_faults()
