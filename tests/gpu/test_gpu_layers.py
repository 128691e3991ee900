"""Run the MoE layers of models on the emulated GPU, in the CUDA op library and in the TensorRT plugin.

Gates and tokens are those of the models on the CPU. The outputs must have the bits of the reference, in float32 and float16.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from cpu_paths import outputs_of, run_calls
from emulated_op_library import build_op_library
from moe_calls import MoeCall, reference, same_values
from on_gpu.emulator import Emulator
from recorded_layers import layer_calls
from tensorrt_nodes import Node, build_plugin, needed_outputs

from vmoe_torch import Vmoe, load_model

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
SETTINGS = list(itertools.product((0.1, 0.2, 0.3, 0.5, 1.05, 2.0), (1, 2), (True, False)))
IMAGES, LAYERS, CALLS_PER_LAYER = 64, 5, 7
CASES = [case for case in golden.cases() if case.model != "g4"]  # g4 is dense


@pytest.fixture(scope="module")
def op_library() -> Path:
    return build_op_library()


@pytest.fixture(scope="module")
def plugin() -> Emulator:
    return build_plugin()


@pytest.fixture(scope="module")
def mnist() -> Vmoe:
    return load_model(MNIST / "vmoe_mnist")


@pytest.fixture(scope="module")
def digits(mnist_images: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(mnist_images["images"][:IMAGES, ..., None].astype(np.float32) / 127.5 - 1)


def assert_on_op_library(op_library: Path, calls: list[MoeCall]) -> None:
    found = outputs_of(run_calls([call.call for call in calls], library=op_library))
    wrong = [str(call) for call, outputs in zip(calls, found, strict=True) if not same_values(outputs, call.expected)]
    assert not wrong


def assert_in_plugin(plugin: Emulator, calls: list[MoeCall]) -> None:
    for number, call in enumerate(calls):
        plugin.configure((80, 100)[number % 2], order=2, seed=number)
        node = Node(plugin, call)
        node.enqueue()
        assert same_values(node.results(), reference(call)[: len(needed_outputs(call.op))]), call


@pytest.mark.sample(2)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_mnist_on_the_op_library(
    setting: tuple[float, int, bool], mnist: Vmoe, digits: torch.Tensor, op_library: Path
) -> None:
    calls = list(layer_calls(mnist, digits, **dict(zip(("capacity", "k", "bpr"), setting, strict=True))))
    assert len(calls) == LAYERS * CALLS_PER_LAYER
    assert_on_op_library(op_library, calls)


@pytest.mark.sample(2)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_mnist_in_the_plugin(setting: tuple[float, int, bool], mnist: Vmoe, digits: torch.Tensor, plugin: Emulator) -> None:
    assert_in_plugin(plugin, list(layer_calls(mnist, digits, **dict(zip(("capacity", "k", "bpr"), setting, strict=True)))))


def golden_calls(number: int) -> list[MoeCall]:
    case = CASES[number]
    model = golden.torch_model(case.model, case.group, False, "logits")
    calls = list(layer_calls(model, torch.from_numpy(case.images), profile=case.profile))
    assert calls
    return calls


@pytest.mark.sample(6)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_golden_models_on_the_op_library(number: int, op_library: Path) -> None:
    assert_on_op_library(op_library, golden_calls(number))


@pytest.mark.sample(6)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_golden_models_in_the_plugin(number: int, plugin: Emulator) -> None:
    assert_in_plugin(plugin, golden_calls(number))
