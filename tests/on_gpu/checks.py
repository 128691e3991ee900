"""Checks that a GPU gives the kernels' outputs the bits that the emulator gives them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
from command_line import BenchmarkError, say

from on_gpu.check import Check, first_line
from on_gpu.device import Device
from on_gpu.emulator import Emulator, dialect_of
from on_gpu.kernel_call import KernelCall, PlacedCall, Tensors
from on_gpu.kernel_cases import kernel_calls
from on_gpu.large_calls import LARGE_GROUPS, LAYERS, large_call
from on_gpu.library import DeviceError, Library, kernel_launches
from on_gpu.memory import GuardedMemory

LAUNCHES = 3  # of each call alone
LAUNCHES_PER_STREAM = 20
GRAPHS, REPLAYS = 40, 2


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
    checks = _Checks(device, kernels, emulator)
    large = partial(large_call, kernels)
    captured = itertools.chain(kernel_calls(kernels, seed + 1, GRAPHS), map(large, LAYERS))
    steps = {
        "random calls": checks.run_alone(kernel_calls(kernels, seed, count)),
        "large groups": checks.run_alone(map(large, LARGE_GROUPS)),
        "layers on several streams at once": checks.run_on_streams(map(large, LAYERS)),
        "CUDA graphs, replayed on other inputs": checks.replay(captured, np.random.default_rng(seed)),
    }
    for name, step in steps.items():
        say(f"exactness: {name}, seed {seed}")
        number, failures = 0, list[str]()
        try:
            for found in step:
                number, failures = number + 1, failures + found
        except (BenchmarkError, RuntimeError) as error:
            failures.append(first_line(error))
        tell(Check(name, number, failures))


@contextlib.contextmanager
def _naming(call: KernelCall) -> Iterator[None]:
    """Add the call's name to an error."""
    try:
        yield
    except RuntimeError as error:
        raise BenchmarkError(f"{call}: {first_line(error)}") from None


class _Checks:
    """Checks that yield each call's failures. They end with an error of the GPU or the emulator."""

    def __init__(self, device: Device, kernels: Library, emulator: Emulator) -> None:
        self._device, self._kernels, self._emulator = device, kernels, emulator
        self._memory = GuardedMemory(kernels)
        self._dialect = dialect_of(device.architecture)

    def run_alone(self, calls: Iterable[KernelCall]) -> Iterator[list[str]]:
        """Launch each call several times."""
        for call in calls:
            wanted, found = self._emulate(call), list[str]()
            with _naming(call):
                placed = self._place(call)
                for _ in range(LAUNCHES):
                    placed.set(call.inputs)
                    placed.launch()
                    self._device.synchronize()
                    found += self._differences(call, placed, wanted)
                found += self._release(call, placed)
            yield list(dict.fromkeys(found))

    def run_on_streams(self, calls: Iterable[KernelCall]) -> Iterator[list[str]]:
        """Run calls repeatedly and at the same time, each on its own stream with its own memory."""
        placed = [(call, self._place(call)) for call in calls]
        self._device.on_streams([partial(self._launch, each) for _, each in placed], LAUNCHES_PER_STREAM)
        for call, each in placed:
            yield self._differences(call, each, self._emulate(call)) + self._release(call, each)

    def replay(self, calls: Iterable[KernelCall], rng: np.random.Generator) -> Iterator[list[str]]:
        """Capture each call in a CUDA graph, count the graph's nodes, and replay it on other inputs.

        If a call allocates or synchronizes, it can't be captured.
        """
        for call in calls:
            with _naming(call):
                placed = self._place(call)
                run_graph = self._device.capture(partial(self._launch, placed))
                nodes, wanted = self._count_nodes(placed), kernel_launches(call.shape)[call.op]
            found = [] if nodes == wanted else [f"{call}: {nodes} launches instead of {wanted}"]
            for _ in range(REPLAYS):
                other = call.shuffled(rng)
                with _naming(other):
                    placed.set(other.inputs)
                    run_graph()
                    self._device.synchronize()
                found += self._differences(other, placed, self._emulate(other))
            yield found + self._release(call, placed)

    def _place(self, call: KernelCall) -> PlacedCall:
        return PlacedCall(call, self._kernels, self._memory)

    def _launch(self, placed: PlacedCall) -> None:
        """Put a call on the current stream."""
        placed.launch(self._device.stream())

    def _count_nodes(self, placed: PlacedCall) -> int:
        """Return the number of launches of a call. The call has been launched before, so that its code is loaded."""
        counted = list[int]()

        def work() -> None:
            counted.append(self._kernels.count_launches(self._device.stream(), partial(self._launch, placed)))

        self._device.on_streams([work])
        return counted[0]

    def _emulate(self, call: KernelCall) -> Tensors:
        """Run a call in the emulator, and return its tensors.

        Raises:
            BenchmarkError: the emulator reports a fault.
        """
        self._emulator.configure(self._dialect, processors=call.processors)
        try:
            tensors, errors = call.run(self._emulator.library, self._emulator), list[str]()
        except DeviceError as error:
            tensors, errors = {}, [str(error)]
        if faults := [*self._emulator.faults(), *errors]:
            raise BenchmarkError(f"{call}, in the emulator: {'; '.join(faults)}")
        return tensors

    def _differences(self, call: KernelCall, placed: PlacedCall, wanted: Tensors) -> list[str]:
        return [f"{call}: {what}" for what in call.differences(placed.tensors(), wanted)]

    def _release(self, call: KernelCall, placed: PlacedCall) -> list[str]:
        """Release the memory of a call, and return what the call wrote around it."""
        placed.release()
        return [f"{call}: {fault}" for fault in self._memory.take_faults()]
