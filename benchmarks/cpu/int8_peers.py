"""The dense peer in int8, as the runtimes' own tools quantize it.

For ONNX Runtime, `quantize_dynamic` with a scale for each channel of the weights. For OpenVINO, NNCF's post-training
quantization for transformers. Its defaults here were chosen for speed on a CPU with AMX, batch 1 and 8: the preset
PERFORMANCE (symmetric activations) took up to 5 % less than MIXED, leaving out SmoothQuant, whose factors are products of
their own, another 3 %, and `model_type=None`, which quantizes attention's own products as well, was no faster.
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

from cpu.photos import CALIBRATION_PHOTOS, crops

NNCF_PACKAGES = ("nncf", "skimage", "sklearn", "matplotlib")
"""What `quantize_for_openvino` needs."""

_CALIBRATION_IMAGES = 60


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


def quantize_for_openvino(model: Any, preset: str = "performance", *, smooth_quant: bool = False) -> Any:
    """An OpenVINO model with weights and activations in int8, calibrated on photos.

    Args:
        model: with one input, float32[N,H,W,3] in [-1, 1].
        preset: of NNCF, "performance" or "mixed", whose activations need not be symmetric.
        smooth_quant: whether channels of activations are scaled by what calibration saw of them.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it reports its use over the network otherwise
    import nncf

    nncf.set_log_level(logging.ERROR)
    batch, height, width, _ = model.input(0).shape
    count = max(1, _CALIBRATION_IMAGES // batch)
    images = crops(CALIBRATION_PHOTOS, count * batch, height, width) / np.float32(127.5) - 1
    advanced = nncf.AdvancedQuantizationParameters()
    if not smooth_quant:
        advanced.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(images.reshape(count, batch, height, width, 3)),
            subset_size=count,
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset(preset),
            advanced_parameters=advanced,
        )
