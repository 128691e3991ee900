"""Traces the torch model into `model.onnx`: nested vmoe functions, weights outside, nothing of this machine inside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxscript
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript.values import Op, Opset

from vmoe_export.grouping import Grouping
from vmoe_export.model import Vmoe
from vmoe_export.ops.functions import IR_VERSION, OPSET, function_bodies
from vmoe_export.ops.table import DOMAIN, OPS, PLUGIN_ATTRIBUTES, VERSION
from vmoe_export.weights_file import Span
from vmoe_runtime.manifest import WEIGHTS_NAME
from vmoe_runtime.profiles import Profile

IMAGE, CAPACITY, K, BPR = "image", "capacity", "k", "bpr"
_LAYER_NORM_STASH = 1


def trace(model: Vmoe, grouping: Grouping, weights: Mapping[str, Span], default: Profile | None) -> onnx.ModelProto:
    """The canonical graph of a model.

    Args:
        model: the torch model; its parameters may be on the meta device.
        grouping: which batches the graph must take.
        weights: where each parameter lies in the weights file.
        default: the profile whose capacity, k and bpr become the inputs' default values; None for a dense ViT.

    Returns:
        A model with the inputs `image` and, if sparse, `capacity`, `k`, `bpr` with defaults; the outputs `logits` or
        `features` and `<block>/slot`, `<block>/weight` of each MoE layer; weights as external data.
    """
    program = _export(model, grouping)
    proto = onnx.ModelProto()
    proto.ParseFromString(program.SerializeToString())
    raise NotImplementedError


def _export(model, grouping):
    ...
