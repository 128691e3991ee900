"""Record gradients and loss curves from the official JAX code, in `gradients.npz`.

tests/exporter/test_torch_training.py compares them with those from vmoe_torch.

The script runs in a separate environment, with checkouts of google-research/vmoe (commit 942a78b) and vision_transformer:

    $ pip install jax==0.10.2 flax==0.12.8 optax==0.2.8 ml_collections==1.1.0 absl-py==2.5.1
    $ PYTHONPATH=vmoe:vision_transformer python tests/data/make_gradients.py

The loss is the one that `train_step` in the official vmoe/train/trainer.py computes, but without noise in the router. It is
the mean of softmax_xent plus the model's auxiliary loss. In models that give the importance loss a weight other than 0,
the importance loss is the auxiliary loss.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from vmoe.nn import routing, vit_moe, vit_moe_ensemble

IMAGES, BATCH, SIZE, PATCH, CLASSES, STEPS, RATE = 256, 64, 12, 4, 4, 50, 0.02
DISPATCHER = {"name": "einsum", "capacity_factor": 0.6, "capacity_multiple_of": None}
TOP_K: dict[str, Any] = {
    "num_classes": CLASSES,
    "patch_size": (PATCH, PATCH),
    "hidden_size": 8,
    "classifier": "token",
    "encoder": {
        "num_layers": 3,
        "mlp_dim": 16,
        "num_heads": 2,
        "moe": {"num_experts": 4, "layers": (1, 2), "group_size": 40},
    },
}


def cases() -> dict[str, dict[str, Any]]:
    """Return the model configs by name."""
    found = {}
    for k, priority, weight in ((1, False, 0.0), (1, True, 0.0), (2, False, 0.0), (2, True, 0.0), (2, True, 0.1)):
        dispatcher = {**DISPATCHER, "batch_priority": priority}
        router = {"num_selected_experts": k, "importance_loss_weight": weight, "dispatcher": dispatcher}
        name = f"k{k}-{'bpr' if priority else 'vanilla'}{'-importance' if weight else ''}"
        found[name] = with_moe(router=router)
    router = {"num_selected_experts": 1, "importance_loss_weight": 0.1, "dispatcher": {**DISPATCHER, "batch_priority": True}}
    found["ensemble"] = with_moe(router=router, ensemble_size=2)
    router = {"name": "NoisyTopItemsPerExpertRouter", "dispatcher": DISPATCHER}
    found["experts-choice"] = with_moe(group_size=36, router=router)
    found["experts-choice"]["classifier"] = "map"
    found["soft"] = with_moe(group_size=9, router={"name": "vmoe.projects.soft_moe.router.SoftRouter", "num_slots": 2})
    found["soft"] |= {"classifier": "gap", "representation_size": 6}
    found["soft"]["encoder"] |= {"attention_qk_norm": True, "position_emb": {"name": "sincos2d"}}
    return found


def with_moe(**fields: Any) -> dict[str, Any]:
    """Return a copy of the config TOP_K. The values in `fields` replace those of its MoE layers."""
    config = copy.deepcopy(TOP_K)
    config["encoder"]["moe"] |= fields
    return config


def make_model(config: dict[str, Any]) -> Any:
    """Make the official module, without noise in its routers."""
    if "ensemble_size" in config["encoder"]["moe"]:
        return vit_moe_ensemble.VisionTransformerMoeEnsemble(**config, deterministic=True)
    return vit_moe.VisionTransformerMoe(**config, deterministic=True)


def make_data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8[N,H,W,1] and their labels i64[N]. Each image is the pattern of its class plus noise."""
    labels = rng.integers(CLASSES, size=IMAGES)
    patterns = rng.uniform(40, 215, (CLASSES, SIZE, SIZE, 1))
    return np.clip(patterns[labels] + rng.normal(0, 60, (IMAGES, SIZE, SIZE, 1)), 0, 255).astype(np.uint8), labels


def random_parameters(model: Any, images: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return random parameters by name. No parameter is zero."""
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), images)["params"]
    found = {}
    for name, value in sorted(flax.traverse_util.flatten_dict(shapes, sep="/").items()):
        noise = rng.normal(size=value.shape).astype(np.float32)
        if name.endswith("scale"):
            found[name] = np.asarray(1 + 0.1 * noise, np.float32)
        elif name.endswith("kernel"):
            fan_in = np.prod(value.shape[:-1]) if "Dense" not in name else value.shape[-2]
            fan_in = (
                value.shape[0] if name.endswith(("query/kernel", "key/kernel", "value/kernel", "dense/kernel")) else fan_in
            )
            found[name] = noise / np.float32(np.sqrt(fan_in))
        else:
            found[name] = noise * np.float32(0.1)
    return found


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(0)
    images, labels = make_data(rng)
    pixels = images.astype(np.float32) / np.float32(127.5) - 1
    record: dict[str, np.ndarray] = {"images": images, "labels": labels}
    shared: dict[str, np.ndarray] = {}
    for name, config in cases().items():
        model = make_model(config)
        members = config["encoder"]["moe"].get("ensemble_size", 1)
        if name.startswith("k"):
            shared = parameters = shared or random_parameters(model, pixels[:BATCH], rng)
            record |= {f"top-k/params/{key}": value for key, value in parameters.items()}
        else:
            parameters = random_parameters(model, pixels[:BATCH], rng)
            record |= {f"{name}/params/{key}": value for key, value in parameters.items()}

        def loss(params: Any, batch: Any, classes: Any, model: Any = model, members: int = members) -> Any:
            tree = flax.traverse_util.unflatten_dict(params, sep="/")
            logits, metrics = model.apply({"params": tree}, batch)
            hot = jnp.repeat(jax.nn.one_hot(classes, CLASSES), members, axis=0)
            return jnp.mean(optax.softmax_cross_entropy(logits, hot)) + jnp.mean(metrics["auxiliary_loss"])

        step = jax.jit(jax.value_and_grad(loss))
        params, curve = parameters, []
        for i in range(STEPS):
            rows = np.arange(i * BATCH, (i + 1) * BATCH) % IMAGES
            value, gradients = step(params, pixels[rows], labels[rows])
            if i == 0:
                record |= {f"{name}/gradients/{key}": np.asarray(value) for key, value in gradients.items()}
            curve.append(np.float32(value))
            params = {key: params[key] - RATE * gradients[key] for key in params}
        record |= {f"{name}/config": np.array(json.dumps(config)), f"{name}/curve": np.array(curve)}
        print(name, sum(value.size for value in parameters.values()), curve[0], curve[-1])
    record |= auxiliary_losses(rng)
    np.savez_compressed(Path(__file__).with_name("gradients.npz"), **record)


def auxiliary_losses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the two auxiliary losses for one group's logits, and their gradients."""
    router = routing.NoisyTopExpertsPerItemRouter
    logits = rng.normal(size=(30, 4)).astype(np.float32)
    noisy = logits + rng.normal(size=(30, 4)).astype(np.float32) / 4
    found = {"losses/logits": logits, "losses/noisy": noisy}
    for k in (1, 2):
        load = jax.value_and_grad(router._load_auxiliary_loss, argnums=(0, 1))
        value, gradients = load(logits, noisy, noise_std=1 / 4, num_selected_experts=k)
        found |= {f"losses/load-k{k}": np.asarray(value), f"losses/load-k{k}/gradients": np.stack(gradients)}
    value, gradient = jax.value_and_grad(lambda x: router._importance_auxiliary_loss(jax.nn.softmax(x)))(logits)
    return found | {"losses/importance": np.asarray(value), "losses/importance/gradient": np.asarray(gradient)}


if __name__ == "__main__":
    main()
