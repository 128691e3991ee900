"""Tests for `load_model`.

It loads any checkpoint as a torch module with an engine's settings. The tests also export the module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import sdk_build
import torch
from safetensors.torch import save_file

from vmoe_export import ConfigError, OptionError, export_bundle
from vmoe_runtime import Engine
from vmoe_runtime.errors import ImageError, RoutingError
from vmoe_torch import Vmoe, load_model

# A dense model, V-MoE with each kind of classifier, E3 with both router layouts, Soft MoE, and expert choice.
MODELS = ["g1", "g2", "g4", "g5", "g5p", "g6", "g7"]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"capacity": 0.3, "k": 1},
    {"capacity": 0.5, "k": 2, "bpr": False},
    {"capacity": 0.2, "pool": True, "max_experts": 4},
]


@pytest.fixture(scope="module")
def mnist(mnist_checkpoint: Path) -> Vmoe:
    return load_model(mnist_checkpoint, capacity=1.05, k=2)


@pytest.fixture
def digits(mnist_images: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(mnist_images["images"][:32, ..., None].astype(np.float32) / 127.5 - 1)


@pytest.mark.sample(2)
@pytest.mark.parametrize("model", MODELS)
def test_what_it_saves_exports_to_the_same_weights_and_loads_again(model: str, tmp_path: Path) -> None:
    network = golden.torch_model(model, "image", False, "logits")
    torch.save(network.state_dict(), tmp_path / "saved.pt")
    save_file(network.state_dict(), tmp_path / "saved.safetensors")
    torch.save(torch.compile(network).state_dict(), tmp_path / "compiled.pt")
    fields = {"config": golden.settings(model)["model"], "image_size": network.config.image_size}
    paths = {path: tmp_path / f"{path.name}.vmoe" for path in [golden.FOLDER / model, *tmp_path.iterdir()]}
    written = set()
    for path, bundle in paths.items():
        export_bundle(path, bundle, validate=False, **fields)
        written.add((bundle / "weights.safetensors").read_bytes())
        again = load_model(bundle).state_dict()
        assert all(torch.equal(again.pop(name), tensor) for name, tensor in network.state_dict().items())
        assert again == {}
    assert len(paths) == 4 and len(written) == 1


def test_the_state_of_an_ensemble_says_that_it_is_one(tmp_path: Path) -> None:
    network = golden.torch_model("g5p", "image", False, "logits")
    torch.save(network.state_dict(), tmp_path / "saved.pt")
    assert load_model(tmp_path / "saved.pt").config.ensemble_size == 2


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_settings_are_those_of_an_engine(
    fields: dict[str, Any], mnist: Vmoe, digits: torch.Tensor, mnist_image_bundle: Path
) -> None:
    with Engine.load(mnist_image_bundle, profile="c1.05-k2") as engine, torch.inference_mode():
        logits, routing = engine.logits_and_routing(digits.numpy(), **fields)
        found, routes = mnist.logits_and_routing(digits, **fields)
        setting = mnist.setting(**fields)
        assert setting is not None
        np.testing.assert_allclose(found.numpy(), logits, rtol=0, atol=1e-5)
        assert routes.keys() == routing.keys()
        for name, layer in routing.items():
            np.testing.assert_array_equal(routes[name]["kept"].numpy(), layer.kept)
            np.testing.assert_array_equal(routes[name]["expert"].numpy(), layer.expert)
        torch.testing.assert_close(mnist(digits, setting), found)
        torch.testing.assert_close(mnist(digits, setting.name), found)
        assert mnist.profile is not None and mnist.profile.name == "c1.05-k2"


@pytest.mark.slow
def test_every_model_compiles_to_one_graph_and_trains_so() -> None:
    # The script runs in a separate process: torch.compile traces Python, which conflicts with coverage measurement.
    script = Path(__file__).with_name("compiled_models.py")
    support = Path(sdk_build.__file__).parent
    done = sdk_build.run(sys.executable, script, *MODELS, "mnist-pool", PYTHONPATH=str(support))
    assert (done.returncode, done.stdout.split()) == (0, [*MODELS, "mnist-pool"]), done.stderr


def test_autocast_computes_in_bfloat16_and_routes_in_float32(mnist: Vmoe, digits: torch.Tensor) -> None:
    exact = mnist(digits)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, routes = mnist.logits_and_routing(digits)
    assert all(layer["router_logits"].dtype == torch.float32 for layer in routes.values())
    assert (rounded - exact).abs().max().item() > 1e-3
    assert (rounded.argmax(dim=1) == exact.argmax(dim=1)).float().mean() >= 0.9
    rounded.float().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mnist.parameters() if parameter.grad is not None)
    mnist.zero_grad()


def test_autocast_merges_tokens_in_float32(mnist: Vmoe, digits: torch.Tensor) -> None:
    with torch.no_grad():
        exact, routes = mnist.logits_and_routing(digits, merge=8)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, others = mnist.logits_and_routing(digits, merge=8)
    alike = (others["encoderblock_0"]["token"] == routes["encoderblock_0"]["token"]).all(dim=1)
    assert alike.float().mean() >= 0.9
    assert (rounded.argmax(dim=1) == exact.argmax(dim=1)).float().mean() >= 0.9


@pytest.mark.parametrize("model", ["g2", "g6"])
def test_a_model_may_be_turned_to_bfloat16(model: str) -> None:
    network = golden.torch_model(model, "image", False, "logits")
    images = torch.from_numpy(golden.arrays(model)["images"][:2])
    exact = network(images)
    assert torch.equal(network(images.double()), exact)
    rounded = network.bfloat16()(images)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(network(images.bfloat16()), rounded)
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.1)


def test_a_new_head_is_zero_and_trains_alone_from_the_first_step(
    mnist_checkpoint: Path, mnist: Vmoe, digits: torch.Tensor, tmp_path: Path
) -> None:
    labels = np.arange(32) % 3
    network = load_model(mnist_checkpoint, num_classes=labels.max() + 1)
    logits = network(digits)
    assert logits.shape == (32, 3) and not logits.any()
    export_bundle(mnist_checkpoint, tmp_path / "features.vmoe", output="features", validate=False)
    for output in (None, "logits"):
        assert load_model(tmp_path / "features.vmoe", num_classes=3, output=output)(digits).shape == (32, 3)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    assert network.get_parameter("head.kernel").grad.any()
    with torch.no_grad():
        network.get_parameter("head.kernel").add_(network.get_parameter("head.kernel").grad, alpha=-1)
    torch.save({"model": network.state_dict()}, tmp_path / "tuned.pt")
    export_bundle(tmp_path / "tuned.pt", tmp_path / "tuned.vmoe", capacity=[1.05], k=[2], validate=False)
    with Engine.load(tmp_path / "tuned.vmoe") as engine, torch.inference_mode():
        np.testing.assert_allclose(engine(digits.numpy()), network(digits).numpy(), rtol=0, atol=1e-5)
    trunk = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("head.")}
    assert all(torch.equal(mnist.state_dict()[name], tensor) for name, tensor in trunk.items())


def test_mistakes_are_one_message(mnist_checkpoint: Path, mnist: Vmoe, digits: torch.Tensor) -> None:
    grouped = load_model(mnist_checkpoint, group="16")
    dense = golden.torch_model("g4", "image", False, "logits")
    with pytest.raises(
        ImageError, match=r"^images must be float32\[N, 28, 28, 1\] in \[-1, 1\], not uint8\[32, 28, 28, 1\]$"
    ):
        mnist(digits.byte())
    with pytest.raises(ImageError, match=r"^there are no images: the batch is empty$"):
        mnist(digits[:0])
    with pytest.raises(ImageError, match=r"not float32\[32, 14, 28, 1\]$"):
        mnist(digits[:, :14])
    with pytest.raises(ImageError, match=r"^20 images can't be cut into routing groups, which need a multiple of 16$"):
        grouped(digits[:20])
    with pytest.raises(RoutingError, match=r"^k must be between 1 and the number of experts, 8, not 9$"):
        mnist(digits, k=9)
    with pytest.raises(RoutingError, match=r"^there is no profile 'c1.05'"):
        mnist(digits, "c1.05")
    with pytest.raises(RoutingError, match=r"^this is a dense model"):
        dense.setting(capacity=0.3)
    with pytest.raises(OptionError, match=r"^num_classes is 0, but must be a number of classes$"):
        load_model(mnist_checkpoint, num_classes=0)
    with pytest.raises(TypeError, match=r"^load_model has no argument precision$"):
        load_model(mnist_checkpoint, precision="int8")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"the config says hidden_size 32, but the checkpoint has 64$"):
        load_model(mnist_checkpoint, {"hidden_size": 32})


def test_without_torch_the_message_says_what_to_install() -> None:
    program = "import sys; sys.modules['torch'] = None; import vmoe_torch"
    last = sdk_build.run(sys.executable, "-c", program).stderr.splitlines()[-1]
    assert last == "ModuleNotFoundError: vmoe_torch needs PyTorch; pip install 'vmoe-export[export,torch]'"
