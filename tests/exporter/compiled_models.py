"""Compiles each model to a single graph, and prints the names of the models whose results agree.

    PYTHONPATH=tests/support python tests/exporter/compiled_models.py g1 mnist-pool ...

The outputs and gradients of each compiled model must agree with those of the uncompiled model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import golden
import numpy as np
import torch

from vmoe_torch import Vmoe, load_model

MNIST = Path(__file__).parents[2] / "samples" / "mnist"


def model_and_images(name: str) -> tuple[Vmoe, torch.Tensor]:
    if name == "mnist-pool":
        digits = np.load(MNIST / "test_data.npz")["images"][:4, ..., None].astype(np.float32) / 127.5 - 1
        return load_model(MNIST / "vmoe_mnist", capacity=0.2, k=2, pool=True, max_experts=4), torch.from_numpy(digits)
    cases = [*golden.cases(), *golden.ensemble_cases(), *golden.kind_cases()]
    images = next(case.images[:4] for case in cases if case.model == name)
    return golden.torch_model(name, "image", False, "logits"), torch.from_numpy(images)


def compare(name: str) -> None:
    torch.compiler.reset()
    network, images = model_and_images(name)
    # Run the compiled model first. If the uncompiled model ran first, it would cache values, and the compiler would not
    # trace the code that computes them.
    found = torch.compile(network, fullgraph=True, backend="aot_eager")(images)
    found.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.zero_grad()
    expected = network(images)
    expected.square().sum().backward()
    torch.testing.assert_close(found, expected)
    for path, parameter in network.named_parameters():
        torch.testing.assert_close(gradients[path], parameter.grad)


if __name__ == "__main__":
    for model in sys.argv[1:]:
        compare(model)
        print(model)
