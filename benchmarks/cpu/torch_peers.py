"""Convert a ViT from transformers or timm.

The result is a bundle for this engine, an ONNX graph, or an OpenVINO model.
"""

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
    """A transformers or timm model, wrapped as a torch module that maps images to one output.

    The input is `image` float32[N,H,W,3] in [-1, 1].

    Attributes:
        model: the transformers or timm model. Its library saves it, and `vmoe export` reads the saved files.
        output: name of the output to return from a transformers model, or "" for a timm model.
        mean, std: the model's normalization per channel, for pixels between 0 and 1.
    """

    def __init__(self, model: Any, output: str, mean: Sequence[float] = _HALF, std: Sequence[float] = _HALF) -> None:
        super().__init__()
        self.model, self.output, self.mean, self.std = model.eval(), output, mean, std

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Run the model on images, float32[N,H,W,3] in [-1, 1]."""
        if self.mean != _HALF:
            image = (image * 0.5 + 0.5 - torch.tensor(self.mean)) / torch.tensor(self.std)
        pixels = image.permute(0, 3, 1, 2).to(next(self.model.parameters()).dtype)
        output: torch.Tensor = self.model(pixel_values=pixels)[self.output] if self.output else self.model(pixels)
        return output

    def outputs(self, images: Array) -> Array:
        """Run the model in torch on a numpy array of images, and return its outputs as a float32 array."""
        with torch.no_grad():
            return np.asarray(self(torch.from_numpy(images)))


def export_network(network: Network, folder: Path, size: tuple[int, int], precision: str) -> Path:
    """Save a network with transformers or timm, export the saved files to a bundle, and return the bundle's path.

    The files and the bundle are in `folder`. `size` is the height and width of the images.
    """
    if network.output:
        network.model.save_pretrained(folder)
    else:
        timm.models.save_for_hf(network.model, str(folder), safe_serialization=True)
    preprocessing = {"image_processor_type": "ViTImageProcessor", "size": dict(zip(("height", "width"), size, strict=True))}
    preprocessing |= {"image_mean": list(network.mean), "image_std": list(network.std)}
    if network.output:  # only for transformers, because timm's folder already contains a preprocessing config
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    bundle = folder / f"{precision}.vmoe"
    export_bundle(folder, bundle, precision=precision, validate=False, force=True)
    return bundle


def to_openvino(network: Network, images: Array) -> Any:
    """Convert the network to an OpenVINO model for batches with the shape of `images`.

    The model has the input `image` and the output `logits`.
    """
    model = openvino.convert_model(network, example_input=torch.from_numpy(images))
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    model.reshape({"image": list(images.shape)})
    return model


def to_onnx(network: Network, images: Array) -> onnx.ModelProto:
    """Convert the network to ONNX with torch.onnx, for batches with the shape of `images`.

    The graph has the input `image` and the output `logits`.
    """
    names = {"input_names": ["image"], "output_names": ["logits"]}
    # In opset 23, attention can be a single op, Attention, which is faster than separate ops. `quantize_dynamic` mistakes it
    # for an older op with the same name, so `load_ort` excludes it from quantization.
    program = torch.onnx.export(network, (torch.from_numpy(images),), dynamo=True, opset_version=23, verbose=False, **names)
    graph: onnx.ModelProto = program.model_proto
    return graph
