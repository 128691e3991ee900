"""A linear head by ridge regression, as in the official few-shot evaluator.

The following is taken from `vmoe/evaluate/fewshot.py` and `vmoe/configs/common_fewshot.py` of google-research/vmoe:

- Features are standardized: subtract the mean, then divide by the standard deviation + 1e-5.
- A constant input of 100 provides a bias that is hardly regularized.
- Targets are -1 and 1.
- The strength of the L2 regularization is one of 2^-10, 2^-9, ... 2^19.

The official code selects the strength that is best on the test images of nine data sets. This module selects the
strength with the smallest squared error in leave-one-out cross-validation on the training images. So held-out images
don't influence the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmoe_runtime.classes import softmax
from vmoe_runtime.routing import Array

_STRENGTHS = tuple(2.0**power for power in range(-10, 20))
_SCALES = tuple(2.0 ** (power / 2) for power in range(13))
_BIAS_INPUT = 100.0


@dataclass(frozen=True)
class RidgeHead:
    """A fitted head: logits are features @ kernel + bias.

    Attributes:
        kernel: f32[D, classes].
        bias: f32[classes].
        strength: strength of the L2 regularization.
    """

    kernel: Array
    bias: Array
    strength: float


def fit_head(features: Array, labels: Array, classes: int) -> RidgeHead:
    """Fit a head in closed form.

    The scores of the regression are near -1 and 1, so softmax would give nearly equal probabilities. The head therefore
    multiplies the scores by a number from 1 to 64. This changes no predicted class. The number is chosen to maximize the
    likelihood of the labels in leave-one-out cross-validation.

    Args:
        features: f32[N, D].
        labels: i64[N], each class at least once.
        classes: number of classes.
    """
    features = features.astype(np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-5
    inputs = np.pad((features - mean) / deviation, ((0, 0), (0, 1)), constant_values=_BIAS_INPUT)
    targets = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    u, singular, vt = np.linalg.svd(inputs, full_matrices=False)
    projected = u.T @ targets

    def left_out_errors(strength: float) -> Array:
        shrinkage = singular**2 / (singular**2 + strength)
        own_share = (u**2 @ shrinkage)[:, None]  # leverage: how much each image influences its own prediction
        errors: Array = (targets - u @ (shrinkage[:, None] * projected)) / (1 - own_share)
        return errors

    strength = min(_STRENGTHS, key=lambda each: float(np.square(left_out_errors(each)).mean()))
    scores = targets - left_out_errors(strength)
    rows = np.arange(len(labels))
    scale = max(_SCALES, key=lambda each: float(np.log(softmax(each * scores)[rows, labels] + 1e-30).sum()))
    weights = scale * vt.T @ ((singular / (singular**2 + strength))[:, None] * projected)
    kernel = weights[:-1] / deviation[:, None]
    bias = _BIAS_INPUT * weights[-1] - mean @ kernel
    return RidgeHead(kernel.astype(np.float32), bias.astype(np.float32), strength)
