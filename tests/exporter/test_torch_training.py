"""Compare gradients, losses and loss curves from vmoe_torch with the official JAX code, without router noise.

`tests/data/make_gradients.py` recorded the official values.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch import Tensor

from vmoe_torch import Vmoe, importance_loss, load_loss, load_model

TOP_K = [f"k{k}-{order}" for k in (1, 2) for order in ("vanilla", "bpr")]
CASES = [*TOP_K, "k2-bpr-importance", "ensemble", "experts-choice", "soft"]
BATCH, STEPS, RATE = 64, 50, 0.02


@functools.cache
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parents[1] / "data" / "gradients.npz"))


def part(prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in recorded().items() if name.startswith(prefix)}


def model_of(case: str, folder: Path) -> tuple[Vmoe, float]:
    """Return a case's model with its recorded parameters, and the weight of the importance loss."""
    config = json.loads(str(recorded()[f"{case}/config"]))
    moe = config["encoder"]["moe"]
    path = folder / "parameters.safetensors"
    save_file(part(f"{'top-k' if case.startswith('k') else case}/params/"), path)
    options: dict[str, Any] = {"group": f"tokens:{moe['group_size']}", "image_size": (12, 12)}
    priority = moe["router"].get("dispatcher", {}).get("batch_priority")
    if case == "ensemble":
        options["output"] = "members"
    model = load_model(path, config, bpr=priority, **options)
    return model.train(), moe["router"].get("importance_loss_weight", 0.0)


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    rows = np.arange(step * BATCH, (step + 1) * BATCH) % len(recorded()["images"])
    pixels = recorded()["images"][rows].astype(np.float32) / np.float32(127.5) - 1
    return torch.from_numpy(pixels), torch.from_numpy(recorded()["labels"][rows])


def loss_of(model: Vmoe, weight: float, images: Tensor, labels: Tensor) -> Tensor:
    logits, routes = model.logits_and_routing(images)
    if model.output == "members":
        logits, labels = logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1])
    loss = F.cross_entropy(logits, labels)
    if weight:
        loss = loss + weight * sum(importance_loss(layer["router_logits"]).mean() for layer in routes.values())
    return loss


def check_close(found: np.ndarray, official: np.ndarray, relative: float, floor: float, name: str) -> None:
    """Assert that `found` differs little from the official gradient.

    The norm of the difference is divided by the norm of `official` or, if that is below `floor`, by `floor`. The quotient
    may be at most `relative`.
    """
    limit = relative * max(float(np.linalg.norm(official)), floor)
    assert float(np.linalg.norm(found - official)) <= limit, name


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_every_parameter_are_the_official_ones(case: str, tmp_path: Path) -> None:
    model, weight = model_of(case, tmp_path)
    images, labels = batch_of(0)
    loss = loss_of(model, weight, images, labels)
    assert loss.item() == pytest.approx(recorded()[f"{case}/curve"][0], rel=1e-5)
    loss.backward()
    official = part(f"{case}/gradients/")
    found = {name.replace(".", "/"): parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == official.keys()
    # The keys' bias adds the same number to all scores of a query. Its true gradient is therefore 0, and the computed
    # gradient is only rounding error.
    floor = 1e-3 * max(float(np.linalg.norm(gradient)) for gradient in official.values())
    for name, gradient in found.items():
        assert gradient is not None, name
        # Soft MoE rounds to bfloat16. This may enlarge a difference in the last bit of a float32 value.
        check_close(gradient.numpy(), official[name], 1e-3 if case == "soft" else 1e-4, floor, name)


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", CASES)
def test_plain_sgd_follows_the_official_loss(case: str, tmp_path: Path) -> None:
    model, weight = model_of(case, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, weight, *batch_of(step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, recorded()[f"{case}/curve"], rtol=0.02)


@pytest.mark.parametrize("case", TOP_K)
def test_a_dropped_token_has_the_gradient_of_its_residual_alone(case: str, tmp_path: Path) -> None:
    model, _ = model_of(case, tmp_path)
    _, routes = model.logits_and_routing(batch_of(0)[0])
    assert all(not layer["kept"].any(dim=-1).all() for layer in routes.values())  # tokens are dropped in every layer
    x = torch.randn(1, 40, 8, requires_grad=True)
    assert model.config.moe is not None
    y, route = model._moe_block("Encoder.encoderblock_1", model.config.moe, x, model.profile, 0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    dropped = ~route["kept"].any(dim=-1)
    torch.testing.assert_close(gradient[dropped], torch.ones(int(dropped.sum()), 8))
    assert (gradient[~dropped] - 1).abs().amax(dim=-1).min() > 1e-3


def test_auxiliary_losses_and_their_gradients_are_the_official_ones() -> None:
    logits, noisy = (torch.from_numpy(recorded()[f"losses/{name}"]).requires_grad_() for name in ("logits", "noisy"))
    loss = importance_loss(logits)
    np.testing.assert_allclose(loss.item(), recorded()["losses/importance"], rtol=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    check_close(gradient.numpy(), recorded()["losses/importance/gradient"], 1e-4, 0, "importance")
    for k in (1, 2):
        loss = load_loss(logits, noisy, k)
        np.testing.assert_allclose(loss.item(), recorded()[f"losses/load-k{k}"], rtol=1e-5)
        for found, official in zip(
            torch.autograd.grad(loss, (logits, noisy)), recorded()[f"losses/load-k{k}/gradients"], strict=True
        ):
            check_close(found.numpy(), official, 1e-4, 0, f"load of {k}")


def test_routers_add_noise_in_training_alone(tmp_path: Path) -> None:
    model, _ = model_of("k1-bpr", tmp_path)
    images, _ = batch_of(0)
    logits, quiet = model.logits_and_routing(images)
    assert all(torch.equal(layer["router_logits"], layer["noisy_router_logits"]) for layer in quiet.values())
    model.noise_std = 1.0
    torch.manual_seed(0)
    _, loud = model.logits_and_routing(images)
    first = loud["encoderblock_1"]
    torch.testing.assert_close(first["router_logits"], quiet["encoderblock_1"]["router_logits"])
    noise = first["noisy_router_logits"] - first["router_logits"]
    # the standard deviation of the noise is 1 / E, for E = 4 experts
    assert noise.std().item() == pytest.approx(1 / 4, rel=0.15)
    assert all(torch.isfinite(load_loss(x["router_logits"], x["noisy_router_logits"], 1)).all() for x in loud.values())
    torch.testing.assert_close(model.eval()(images), logits)
