"""The dense peer in int8, as the runtimes' own tools quantize it.

For ONNX Runtime, `quantize_dynamic` with a scale for each channel of the weights. For OpenVINO, NNCF's post-training
quantization for transformers. Its settings were chosen for speed on a CPU with AMX, batch 1 and 8: the preset PERFORMANCE
(symmetric activations) took up to 5 % less than MIXED, leaving out SmoothQuant, whose factors are products of their own,
another 3 %, and `model_type=None`, which quantizes attention's own products as well, was no faster.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, np.dtype[Any]]

_CALIBRATION_IMAGES = 16
_SQUARES = 8  # a smooth image is so many squares high and wide


def quantize_for_ort(graph: onnx.ModelProto, left_out: Collection[str] = ()) -> onnx.ModelProto:
    """The graph with its products in int8, but for ops of some types; activations are quantized when it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The type is for what shape inference can't see through: com.microsoft's own ops.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    logging.disable(logging.WARNING)  # of steps before, which the session does itself
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "int8.onnx")
            # Signed weights: with unsigned ones a product takes three times as long.
            quantize_dynamic(
                graph,
                str(path),
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[node.name for node in graph.graph.node if node.op_type in left_out],
                extra_options=options,
            )
            return onnx.load(str(path))
    finally:
        logging.disable(logging.NOTSET)


def quantize_for_openvino(model: Any) -> Any:
    """An OpenVINO model with weights and activations in int8, calibrated on noise and on smooth images."""
    os.environ.setdefault("NNCF_CI", "1")  # it reports its use over the network otherwise
    import nncf

    nncf.set_log_level(logging.ERROR)
    batches = calibration_batches(tuple(model.input(0).shape))
    no_smooth_quant = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=no_smooth_quant),
        )


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
