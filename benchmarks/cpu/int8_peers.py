"""Quantize the dense peers to int8 with the runtimes' own tools.

For ONNX Runtime, the tool is `quantize_dynamic`, with one weight scale per output channel. For OpenVINO, it is NNCF's
post-training quantization for transformers. The default arguments of `quantize_for_openvino` were chosen for speed on a CPU
with AMX, at batch sizes 1 and 8:

- The preset `performance` (symmetric activations) took up to 5 % less time than `mixed`.
- Omitting SmoothQuant, which adds multiplications to scale the activations, saved another 3 % of the time.
- `model_type=None`, which also quantizes the matrix products inside attention, was no faster than the default.
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
"""Packages that `quantize_for_openvino` needs."""

_CALIBRATION_IMAGES = 60


def quantize_for_ort(graph: onnx.ModelProto, left_out: Collection[str] = ()) -> onnx.ModelProto:
    """Quantize the matrix products of a graph to int8, except ops whose type is in `left_out`.

    Activations are quantized at run time.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Shape inference doesn't support the ops of the domain com.microsoft, so the quantizer needs a default type for their
    # outputs.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    # hide the advice to preprocess the graph, because ONNX Runtime does that when it loads the graph
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "int8.onnx")
            # Use signed weights, because a matrix product takes three times as long with unsigned weights.
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
    """Quantize the weights and activations of an OpenVINO model to int8, calibrated on photos.

    Args:
        model: a model with one input, float32[N,H,W,3] in [-1, 1].
        preset: NNCF's "performance" for symmetric activations, or "mixed", which also allows asymmetric activations.
        smooth_quant: whether to apply SmoothQuant, which scales each channel of the activations by its calibrated range.
    """
    os.environ.setdefault("NNCF_CI", "1")  # otherwise NNCF sends usage data over the network
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
