"""Tests for models whose MLPs use another activation than the official one.

The models are tested in every graph, in every engine and in torch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from variants import Variant

from vmoe_export import ExportOptions, open_checkpoint
from vmoe_export.export import plan_export, write_bundle
from vmoe_export.ops.table import ACTIVATIONS, OPS, Activation
from vmoe_runtime import Engine
from vmoe_torch import load_model

MODEL = Variant(
    "a block of each kind, map head", classifier="map", position="learned", trained_grid=(3, 3), image_size=(12, 12),
    hidden=96, moe=(1,),
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("model"))


def exported(checkpoint: Path, bundle: Path, activation: Activation, precision: str) -> Path:
    """Export a bundle for a model with this activation.

    The export compares the bundle's graphs with the reference, including the graphs for TensorRT if there are any.
    """
    with open_checkpoint(checkpoint) as opened:
        tensorrt = precision in ("fp32", "bf16")
        options = ExportOptions(config=MODEL.config, precision=precision, capacity=[1.05], k=[2], tensorrt=tensorrt)
        plan = plan_export(opened, options)
        write_bundle(dataclasses.replace(plan, model=dataclasses.replace(plan.model, activation=activation)), bundle)
    return bundle


@pytest.mark.sample(4)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_graphs_say_the_activation_where_it_is_not_the_first(
    checkpoint: Path, activation: Activation, precision: str, tmp_path: Path
) -> None:
    bundle = exported(checkpoint, tmp_path / "x.vmoe", activation, precision)
    for node in onnx.load(bundle / "model.onnx", load_external_data=False).graph.node:
        said = [attribute.i for attribute in node.attribute if attribute.name == "activation"]
        number = ACTIVATIONS.index(activation)
        assert said == ([number] if number and "activation" in OPS.get(node.op_type, OPS["VmoeGates"]).attributes else [])


def test_engines_and_torch_compute_it(checkpoint: Path, tmp_path: Path) -> None:
    images = MODEL.images(5)
    network = load_model(checkpoint, config=MODEL.config, capacity=1.05, k=2).eval()
    found = []
    for activation in ACTIVATIONS:
        bundle = exported(checkpoint, tmp_path / f"{activation}.vmoe", activation, "fp32")
        network.config = dataclasses.replace(network.config, activation=activation)
        with torch.no_grad():
            found.append(network(torch.from_numpy(images)).numpy())
        for backend in ("onnxruntime", "openvino"):
            with Engine.load(bundle, backend=backend, threads=1) as engine:
                np.testing.assert_allclose(engine(images), found[-1], rtol=0, atol=1e-4)
    assert np.abs(found[1] - found[0]).max() > 5e-4
    assert np.abs(found[2] - found[0]).max() > 1e-2
