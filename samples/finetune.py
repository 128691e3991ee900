"""Fine-tune the MNIST sample in PyTorch on scikit-learn's digits, and export the result.

The program then prints the bundle's accuracy at several capacity ratios.

pip install '.[export,torch]' scikit-learn
python samples/finetune.py digits.vmoe
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn import functional

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_torch import Vmoe, importance_loss, load_model

HERE = Path(__file__).parent
RATIOS = (0.1, 0.2, 0.3, 0.5, 1.05, 2.0)
HELD_OUT, SIZE, CLASSES = 500, 28, 10
LOSS_STEPS = 10  # steps between printed losses
BALANCE = 0.005  # weight of the importance loss, as in official configs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="bundle to write, next to .safetensors weights and .npz test images")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "mnist" / "vmoe_mnist", help="initial weights")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--force", action="store_true", help="replace existing files")
    arguments = parser.parse_args()
    weights, data = (arguments.bundle.with_suffix(suffix) for suffix in (".safetensors", ".npz"))
    if not arguments.force and (old := next((path for path in (arguments.bundle, weights, data) if path.exists()), None)):
        parser.error(f"{old} exists; --force replaces it")
    if not arguments.bundle.parent.is_dir():
        parser.error(f"there is no folder {arguments.bundle.parent}")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the model is too small to benefit from more threads
    images, labels = digits()
    model = load_model(arguments.checkpoint, num_classes=CLASSES)
    train(model, images[HELD_OUT:], labels[HELD_OUT:], arguments.epochs)
    save_file(model.state_dict(), weights)
    export_bundle(weights, arguments.bundle, capacity=[1.05], force=arguments.force)
    test_images, test_labels = images[:HELD_OUT].numpy(), labels[:HELD_OUT].numpy()
    np.savez(data, images=test_images, labels=test_labels)
    compare(arguments.bundle, test_images, test_labels)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Load all 1,797 digits in random order: float32 [N,28,28,1] in [-1, 1], and int64 [N]."""
    data = load_digits()
    order = torch.randperm(len(data.target))
    small = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16 * 2 - 1
    images = functional.interpolate(small, (SIZE, SIZE), mode="bilinear")
    return images.permute(0, 2, 3, 1).contiguous(), torch.tensor(data.target)[order]


def train(model: Vmoe, images: torch.Tensor, labels: torch.Tensor, epochs: int, batch_size: int = 32) -> None:
    """Train the model with AdamW. The learning rate falls to 0.

    The loss includes the official importance loss, which balances the experts.
    """
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for step, chosen in enumerate(torch.randperm(len(images)).split(batch_size)[: steps // epochs]):
            logits, routing = model.logits_and_routing(images[chosen])
            unequal = sum(importance_loss(layer["router_logits"]).mean() for layer in routing.values())
            loss = functional.cross_entropy(logits, labels[chosen]) + BALANCE * unequal
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % LOSS_STEPS == 0:
                print(f"epoch {epoch + 1} of {epochs}, step {step + 1}: loss {loss.item():.3f}", flush=True)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / (steps // epochs):.3f}", flush=True)


def compare(bundle: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Print the accuracy on held-out digits at each capacity ratio, with and without Batch Priority Routing."""
    print("| capacity ratio | Batch Priority Routing | vanilla order |\n|---|---|---|")
    with Engine.load(bundle) as engine:
        for ratio in RATIOS:
            shares = [(engine(images, capacity=ratio, bpr=bpr).argmax(axis=1) == labels).mean() for bpr in (True, False)]
            print(f"| {ratio:g} | {shares[0]:.1%} | {shares[1]:.1%} |")


if __name__ == "__main__":
    main()
