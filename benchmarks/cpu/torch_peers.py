"""A ViT of transformers or timm as this engine's bundle, as an ONNX graph, and as an OpenVINO model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import timm
import torch

from vmoe_export import export_bundle

Array = np.ndarray[Any, np.dtype[Any]]


_HALF = (0.5, 0.5, 0.5)


class Network(torch.nn.Module):
    """`image` float32[N,H,W,3] in [-1, 1] -> one output of a transformers model, or the output of a timm model.

    Attributes:
        model: the library's model, which `vmoe export` reads once it is saved.
        output: name of the output; "" for a timm model.
        mean, std: the model's normalization per channel, for pixels between 0 and 1.
    """

    def __init__(self, model: Any, output: str, mean: Sequence[float] = _HALF, std: Sequence[float] = _HALF) -> None:
        super().__init__()
        self.model, self.output, self.mean, self.std = model.eval(), output, mean, std

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Run the model on images, see `Network`."""
        if self.mean != _HALF:
            image = (image * 0.5 + 0.5 - torch.tensor(self.mean)) / torch.tensor(self.std)
        pixels = image.permute(0, 3, 1, 2).to(next(self.model.parameters()).dtype)
        output: torch.Tensor = self.model(pixel_values=pixels)[self.output] if self.output else self.model(pixels)
        return output

    def outputs(self, images: Array) -> Array:
        """Run the model in torch on a numpy array; the result is float32."""
        with torch.no_grad():
            return np.asarray(self(torch.from_numpy(images)))


def export_network(network: Network, folder: Path, size: tuple[int, int], precision: str) -> Path:
    """Save a network with its library and export it to a bundle in `folder`, for images of `size`, (height, width)."""
    if network.output:
        network.model.save_pretrained(folder)
    else:
        timm.models.save_for_hf(network.model, str(folder), safe_serialization=True)
    preprocessing = {"image_processor_type": "ViTImageProcessor", "size": dict(zip(("height", "width"), size, strict=True))}
    preprocessing |= {"image_mean": list(network.mean), "image_std": list(network.std)}
    if network.output:  # timm saves its own preprocessing
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    bundle = folder / f"{precision}.vmoe"
    export_bundle(folder, bundle, precision=precision, validate=False, force=True)
    return bundle


def to_openvino(network: Network, images: Array) -> Any:
    """Convert the torch module to OpenVINO for batches of this shape: `image` -> `logits`."""
    model = openvino.convert_model(network, example_input=torch.from_numpy(images))
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    model.reshape({"image": list(images.shape)})
    return model


def to_onnx(network: Network, images: Array) -> onnx.ModelProto:
    """Convert the torch module to ONNX with torch.onnx for batches of this shape: `image` -> `logits`."""
    names = {"input_names": ["image"], "output_names": ["logits"]}
    # Opset 23 has an op for attention, which is faster than its parts. The quantizer mistakes it for an older op.
    program = torch.onnx.export(network, (torch.from_numpy(images),), dynamo=True, opset_version=23, verbose=False, **names)
    graph: onnx.ModelProto = program.model_proto
    return graph
