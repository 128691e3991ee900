"""Graphs in ONNX Runtime and OpenVINO, on the CPU, with a given number of threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import openvino

Array = np.ndarray[Any, np.dtype[Any]]
OpenVinoPrecision = Literal["f32", "bf16"]

_FATAL_ONLY = 4


def ort_session(
    graph: Path, threads: int, library: Path | None = None, profile_to: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session with all of ONNX Runtime's optimizations.

    Args:
        graph: the ONNX file.
        threads: intra-op threads.
        library: an op library to register.
        profile_to: where the session's profile goes, without its ending; None for no profile.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    if library is not None:
        options.register_custom_ops_library(str(library))
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to)
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class OrtModel:
    """A graph in ONNX Runtime.

    Args:
        graph: the ONNX file, with an output `logits`.
        threads: intra-op threads.
        precision: what the graph computes in, for the description.
    """

    def __init__(self, graph: Path, threads: int, precision: str) -> None:
        self._session = ort_session(graph, threads)
        self.description = f"ONNX Runtime {onnxruntime.__version__} CPU, {precision}"

    def __call__(self, feeds: Mapping[str, Array]) -> Array:
        """Logits float32[N, classes]."""
        logits: Array = self._session.run(["logits"], dict(feeds))[0]
        return logits


class OpenVinoModel:
    """A graph in OpenVINO, with one request.

    Args:
        graph: the ONNX file, or an OpenVINO model.
        threads: inference threads.
        precision: what is computed in, where the graph itself says nothing.
        weights: what the graph itself says, for the description.
        shapes: makes inputs static, by name.
    """

    def __init__(
        self,
        graph: Path,
        threads: int,
        precision: OpenVinoPrecision,
        *,
        weights: str = "",
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        core = openvino.Core()
        model = core.read_model(str(graph))
        if shapes:
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        version = openvino.__version__.split("-")[0]
        self.description = f"OpenVINO {version} CPU, {f'{weights}, rest ' if weights else ''}{precision}"

    def __call__(self, feeds: Mapping[str, Array]) -> Array:
        """Logits float32[N, classes]."""
        self._request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return np.array(self._request.get_tensor("logits").data)

    def outputs(self, ending: str) -> list[Array]:
        """What the last call gave for all outputs whose name ends so, in order."""
        ports = [port for port in self._request.model_outputs if any(name.endswith(ending) for name in port.names)]
        return [np.array(self._request.get_tensor(port).data) for port in ports]
