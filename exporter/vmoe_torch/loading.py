"""Load a checkpoint of any format as a torch model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Unpack

import numpy as np
import torch

from vmoe_export import CheckpointError, ExportOptions, OptionError, open_checkpoint
from vmoe_export.checkpoint import Checkpoint
from vmoe_export.export_plan import plan_export
from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.capacity import Rounding
from vmoe_runtime.settings import ChoiceFields
from vmoe_torch.model import Vmoe


class ModelFields(ChoiceFields, total=False):
    """The fields of `vmoe_export.ExportOptions` that apply to a torch model, except config, capacity and k."""

    preset: str | None
    image_size: tuple[int, int] | None
    group: str | None
    batch_size: int | None
    rounding: Rounding | None
    capacity_multiple_of: int | None
    dispatch_bf16: bool | None
    ensemble_size: int | None
    router: Literal["top-k", "experts-choice"] | None
    output: Output | None
    normalize: bool | None


def load_model(
    checkpoint: str | os.PathLike[str],
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    num_classes: int | None = None,
    capacity: float | None = None,
    k: int | None = None,
    noise_std: float = 0.0,
    **fields: Unpack[ModelFields],
) -> Vmoe:
    """Load a checkpoint as a torch module in float32, on the CPU, with all parameters trainable.

    Settings that are not passed have the same defaults as in an export.

    Args:
        checkpoint: a path, as for `vmoe_export.open_checkpoint`.
        config: an official model config: a mapping, or the path of a JSON file.
        num_classes: number of classes of a new head, which starts with zeros. Default: keep the checkpoint's head.
        capacity: the capacity ratio for calls that pass none.
        k: the number of experts per token for calls that pass none.
        noise_std: standard deviation of the routers' noise in training, see `Vmoe`. Official configs use 1.
        fields: other settings, see `vmoe_runtime.settings.Choices`. The following options of
            `vmoe_export.ExportOptions` are also accepted: preset, image_size, group, batch_size, rounding,
            capacity_multiple_of, dispatch_bf16, ensemble_size, router, output and normalize.

    Raises:
        VmoeError: the checkpoint can't be read, or an option doesn't fit it.

    Examples:
        >>> model = load_model("samples/mnist/vmoe_mnist", capacity=0.3, k=1)
        >>> model(torch.zeros(2, 28, 28, 1)).shape, model.profile.name
        (torch.Size([2, 10]), 'c0.3-k1')
    """
    if unknown := fields.keys() - ModelFields.__annotations__.keys():
        raise TypeError(f"load_model has no argument {min(unknown)}")
    if num_classes is not None:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
            raise OptionError(f"num_classes is {num_classes!r:.40}, but must be a number of classes")
        num_classes = int(num_classes)
    options = ExportOptions(
        capacity=None if capacity is None else [capacity],
        k=None if k is None else [k],
        config=dict(config) if isinstance(config, Mapping) else config,
        **fields,
    )
    with open_checkpoint(checkpoint) as opened:
        return _load(opened, options, num_classes, noise_std)


def _load(checkpoint: Checkpoint, options: ExportOptions, num_classes: int | None, noise_std: float) -> Vmoe:
    if checkpoint.family_title:
        raise CheckpointError(f"{checkpoint.path} is a {checkpoint.family_title}; only official models become torch models")
    asked = options.output
    if num_classes is not None and asked == "logits":  # the new head returns logits, even if the checkpoint has no head
        options = replace(options, output=None)
    plan = plan_export(checkpoint, options)
    config, output = plan.model, plan.output
    if output == "tokens":
        raise OptionError("a torch model returns logits, members or features, not tokens; choose another output")
    if num_classes is not None:
        output = "logits" if asked == "logits" or not (config.num_classes or asked) else output
        config = replace(config, num_classes=num_classes)
    profile = next(iter(plan.profiles), None)
    model = Vmoe(config, plan.grouping.tokens, output=output, rules=plan.rules, profile=profile, noise_std=noise_std)
    # Import this module late. It imports onnx, which is slow and not needed if planning fails.
    from vmoe_export.bundle.weights_file import official_tensor

    state = {}
    for name, parameter in model.named_parameters():
        if num_classes is not None and name.startswith("head."):
            array = np.zeros(parameter.shape, np.float32)
        else:
            array = official_tensor(name.replace(".", "/"), checkpoint, plan.model)
        state[name] = torch.from_numpy(np.require(array, requirements="W")).reshape(parameter.shape)
    model.load_state_dict(state, assign=True)
    return model
