"""Loads a checkpoint of any format as a torch model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from vmoe_export import ExportOptions, OptionError, open_checkpoint
from vmoe_export.export_plan import plan_export
from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.capacity import Rounding
from vmoe_torch.model import Vmoe


def load_model(
    checkpoint: str | os.PathLike[str],
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    num_classes: int | None = None,
    capacity: float | None = None,
    k: int | None = None,
    bpr: bool | None = None,
    pool: bool | None = None,
    max_experts: int | None = None,
    noise_std: float = 0.0,
    preset: str | None = None,
    image_size: tuple[int, int] | None = None,
    group: str | None = None,
    batch_size: int | None = None,
    rounding: Rounding | None = None,
    capacity_multiple_of: int | None = None,
    dispatch_bf16: bool | None = None,
    ensemble_size: int | None = None,
    router: Literal["top-k", "experts-choice"] | None = None,
    output: Output | None = None,
) -> Vmoe:
    """Loads a checkpoint as a torch module in float32, on the CPU, with all parameters trainable.

    Args:
        checkpoint: what `vmoe_export.open_checkpoint` takes.
        config: official model config: a mapping, or the path of a JSON file.
        num_classes: give the model a new head for so many classes, initialized to zeros. Default: the checkpoint's head.
        capacity, k, bpr, pool, max_experts: the routing setting of calls that say nothing else. Defaults are an export's.
        noise_std: of the noise that routers add in training, see `Vmoe`; official configs have 1.
        preset, image_size, group, batch_size, rounding, capacity_multiple_of, dispatch_bf16, ensemble_size, router, output:
            as in `vmoe_export.ExportOptions`.

    Raises:
        VmoeError: the checkpoint can't be read, or an option doesn't fit it.

    Examples:
        >>> model = load_model("samples/mnist/vmoe_mnist", capacity=0.3, k=1)
        >>> model(torch.zeros(2, 28, 28, 1)).shape, model.profile.name
        (torch.Size([2, 10]), 'c0.3-k1')
    """
    if num_classes is not None and (isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1):
        raise OptionError(f"num_classes is {num_classes!r:.40}, but must be a number of classes")
    options = ExportOptions(
        capacity=None if capacity is None else [capacity],
        k=None if k is None else [k],
        bpr=bpr,
        pool=pool,
        max_experts=max_experts,
        config=dict(config) if isinstance(config, Mapping) else config,
        preset=preset,
        image_size=image_size,
        group=group,
        batch_size=batch_size,
        rounding=rounding,
        capacity_multiple_of=capacity_multiple_of,
        dispatch_bf16=dispatch_bf16,
        ensemble_size=ensemble_size,
        router=router,
        output=output,
    )
    # It imports onnx, which planning and its errors don't wait for.
    from vmoe_export.bundle.weights_file import official_tensor

    with open_checkpoint(checkpoint) as opened:
        plan = plan_export(opened, options)
        described, output = plan.model, plan.output
        if num_classes is not None:
            output = output if described.num_classes or options.output else "logits"
            described = replace(described, num_classes=num_classes)
        profile = next(iter(plan.profiles), None)
        model = Vmoe(described, plan.grouping.tokens, output=output, rules=plan.rules, profile=profile, noise_std=noise_std)
        state = {}
        for name, parameter in model.named_parameters():
            if num_classes is not None and name.startswith("head."):
                array = np.zeros(parameter.shape, np.float32)
            else:
                array = official_tensor(name.replace(".", "/"), opened, plan.model)
            state[name] = torch.from_numpy(np.require(array, requirements="W")).reshape(parameter.shape)
    model.load_state_dict(state, assign=True)
    return model
