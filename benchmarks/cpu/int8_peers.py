"""The dense peer in int8, as the runtimes' own tools quantize it.

For ONNX Runtime, `quantize_dynamic` with a scale for each channel of the weights. For OpenVINO, NNCF's post-training
quantization for transformers. Its settings were chosen for speed on a CPU with AMX, batch 1 and 8: the preset PERFORMANCE
(symmetric activations) took up to 5 % less than MIXED, leaving out SmoothQuant, whose factors are products of their own,
another 3 %, and `model_type=None`, which quantizes attention's own products as well, was no faster.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, np.dtype[Any]]

_CALIBRATION_IMAGES = 16
_SQUARES = 8  # a smooth image is so many squares high and wide


def missing_nncf() -> str | None:
    """Why NNCF can't be used, or None."""
    if importlib.util.find_spec("nncf") is None:
        return "nncf isn't installed; run pip install -r benchmarks/requirements.txt"
    return None


def quantize_for_ort(graph: Path) -> Path:
    """The graph with the weights of its products in int8, beside the other one; activations are quantized when it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantize(path: Path) -> None:
        # The type is for what shape inference can't see through: com.microsoft's own ops.
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        logging.disable(logging.WARNING)  # of steps before, which the session does itself
        try:
            # Signed weights: with unsigned ones a product takes three times as long.
            quantize_dynamic(str(graph), str(path), per_channel=True, weight_type=QuantType.QInt8, extra_options=options)
        finally:
            logging.disable(logging.NOTSET)

    return _cached(graph, f"ort-{importlib.metadata.version('onnxruntime')}.onnx", quantize)


def quantize_for_openvino(graph: Path) -> Path:
    """An OpenVINO model with weights and activations in int8, calibrated on noise and on smooth images, beside the graph."""

    def quantize(path: Path) -> None:
        os.environ.setdefault("NNCF_CI", "1")  # it reports its use over the network otherwise
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        model = openvino.Core().read_model(str(graph))
        batches = calibration_batches(tuple(model.input(0).shape))
        no_smooth_quant = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            quantized = nncf.quantize(
                model,
                nncf.Dataset(batches),
                subset_size=len(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.PERFORMANCE,
                advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=no_smooth_quant),
            )
        openvino.save_model(quantized, str(path), compress_to_fp16=False)

    return _cached(graph, f"nncf-{importlib.metadata.version('nncf')}.xml", quantize)


def calibration_batches(shape: tuple[int, ...]) -> list[Array]:
    """Batches float32[N,H,W,C] in [-1, 1], by turns of uniform noise and of smooth images, and at least one of each."""
    batch, height, width, channels = shape
    random = np.random.default_rng(1)
    batches = []
    for _ in range(max(1, _CALIBRATION_IMAGES // (2 * batch))):
        batches.append(random.uniform(-1, 1, shape).astype(np.float32))
        squares = random.normal(0, 0.5, (batch, _SQUARES, _SQUARES, channels))
        smooth = squares.repeat(-(-height // _SQUARES), axis=1).repeat(-(-width // _SQUARES), axis=2)[:, :height, :width]
        batches.append(np.clip(smooth + random.normal(0, 0.1, shape), -1, 1).astype(np.float32))
    return batches


def _cached(graph: Path, ending: str, make: Callable[[Path], None]) -> Path:
    """What `make` writes from a graph, in a file beside it named after the graph's content; made once."""
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()[:12]
    path = graph.with_name(f"{graph.stem}-{digest}-{ending}")
    if not path.exists():
        part = path.with_name(f"part-{path.name}")
        make(part)
        for file in part.parent.glob(f"{part.stem}.*"):  # OpenVINO writes the weights to a file of their own
            file.rename(file.with_name(file.name.removeprefix("part-")))
    return path
