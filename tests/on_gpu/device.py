"""The GPU: its properties, streams, graphs and clock. All code that only a GPU can run is in this file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from command_line import BenchmarkError

Work = Callable[[], object]

_LARGEST_L2_BYTES = 128 << 20  # used if torch doesn't report the size; no GPU has a larger cache


class Device:
    """The first GPU that torch finds.

    Attributes:
        torch_device: the torch device on which to make tensors.
        name, architecture: such as "NVIDIA H100 80GB HBM3" and "sm_90".
        l2_bytes: size of the L2 cache in bytes.
        facts: further properties, for the report.
    """

    def __init__(self) -> None:
        """Raises:
        BenchmarkError: numpy or torch isn't installed, torch was built without CUDA or finds no GPU, or the GPU is too old.
        """
        for package in ("numpy", "torch"):
            if importlib.util.find_spec(package) is None:
                raise BenchmarkError(f"{package} isn't installed; the checks on a GPU need numpy and a torch with CUDA")
        import torch

        if torch.version.cuda is None:
            raise BenchmarkError(f"this torch ({torch.__version__}) is built without CUDA; install one that has it")
        if not torch.cuda.is_available():
            raise BenchmarkError("torch finds no NVIDIA GPU that it can use; see what nvidia-smi says")
        self._cuda, properties = torch.cuda, torch.cuda.get_device_properties(0)
        if properties.major < 8:
            capability = f"{properties.major}.{properties.minor}"
            raise BenchmarkError(f"the kernels need compute capability 8.0; {properties.name} has {capability}")
        self.torch_device: Any = torch.device("cuda", 0)
        self.name, self.architecture = str(properties.name), f"sm_{properties.major}{properties.minor}"
        self.l2_bytes = int(getattr(properties, "L2_cache_size", 0)) or _LARGEST_L2_BYTES
        self.facts: dict[str, Any] = {"architecture": self.architecture, "l2_bytes": self.l2_bytes}
        self.facts |= {"memory_bytes": properties.total_memory, "processors": properties.multi_processor_count}
        self.facts |= {"torch": torch.__version__, "cuda_of_torch": torch.version.cuda}

    def stream(self) -> int:
        """Return the handle of the current stream."""
        return int(self._cuda.current_stream().cuda_stream)

    def synchronize(self) -> None:
        """Wait until all work on the GPU is done. If a GPU error has occurred, raise it."""
        self._cuda.synchronize()

    def on_streams(self, works: Sequence[Work], times: int = 1) -> None:
        """Run all functions in `works`, `times` times, each on its own stream, and wait until the GPU has finished."""
        self.synchronize()
        streams = [self._cuda.Stream() for _ in works]
        for _ in range(times):
            for work, stream in zip(works, streams, strict=True):
                with self._cuda.stream(stream):
                    work()
        self.synchronize()

    def capture(self, work: Work) -> Work:
        """Run `work` once to warm up, and capture it in a CUDA graph. Return a function that runs the graph.

        `work` must use the current stream.
        """
        self.on_streams([work])
        graph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph):
            work()
        return graph.replay

    def milliseconds(self, work: Work) -> float:
        """Measure the GPU time of `work` on the current stream, in milliseconds."""
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def release(self) -> None:
        """Release unused memory."""
        self._cuda.empty_cache()
