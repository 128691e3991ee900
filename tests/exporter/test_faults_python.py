"""Check that each invalid argument of `export_bundle` raises one error that contains the argument's name.

The export must leave no files behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damaged_files import DENSE, SPARSE

from vmoe_export import ConfigError, OptionError, export_bundle
from vmoe_runtime import RoutingError


def config(**dispatcher: Any) -> dict[str, Any]:
    """Return a config that contains only these fields of the dispatcher."""
    return {"encoder": {"moe": {"router": {"dispatcher": dispatcher}}}}


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("capacity", 0.3, OptionError, "^capacity "),
    ("capacity", "3", OptionError, "capacity is '3', but must be a sequence of ratios"),
    ("capacity", [float("nan")], RoutingError, "capacity"),
    ("k", 1, OptionError, "^k "),
    ("k", [9], RoutingError, "k must be"),
    ("group", 16, OptionError, "^group "),
    ("group", "batch", OptionError, "'batch'"),
    ("batch_size", "8", OptionError, "^batch_size "),
    ("image_size", 28, OptionError, "^image_size "),
    ("config", [1], OptionError, "^config "),
    ("config", {"hidden_size": 768}, ConfigError, "hidden_size"),
    ("config", config(bfloat16="false"), ConfigError, "bfloat16"),
    ("input", "uint16", OptionError, "^input "),
    ("output", "probs", OptionError, "^output "),
    ("rounding", "down", OptionError, "^rounding "),
    ("bpr", "no", OptionError, "^bpr "),
    ("bpr", np.array([1, 0]), OptionError, "bpr must be True or False"),
    ("dispatch_bf16", "false", OptionError, "^dispatch_bf16 "),
    ("tensorrt", torch.ones(2), OptionError, r"tensorrt is tensor\(\[1., 1.\]\)"),
    ("precision", "int2", OptionError, "^precision "),
    ("precision", [[1], [1, 2]], OptionError, "not one of fp32"),
    ("precision", "fp16", OptionError, "add --tensorrt"),
    ("capacity_multiple_of", 0, OptionError, "^capacity_multiple_of "),
    ("class_names", 10, OptionError, "^class_names "),
    ("class_names", "abcdefghij", OptionError, "class_names is 'abcdefghij', but must be a sequence of names"),
    ("class_names", ["cat"], OptionError, "class names"),
    ("atol", "small", OptionError, "atol"),
    ("max_distance", True, OptionError, "max_distance"),
    ("images", 3, OptionError, "images is 3"),
    ("images", "x.npz", OptionError, "float32"),
    ("preset", "light1", OptionError, "eee_s32_last2_ilsvrc2012"),
]


@pytest.mark.parametrize(("option", "value", "error", "words"), WRONG, ids=str)
def test_an_option_of_the_wrong_type_or_value_is_named(
    option: str, value: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        export_bundle(SPARSE, tmp_path / "x.vmoe", **{option: value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", [{"capacity": [0.3]}, {"bpr": False}, {"batch_size": 2}], ids=lambda option: next(iter(option))
)
def test_a_dense_model_refuses_what_only_means_something_to_experts(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"dense ViT.* {next(iter(option))}$"):
        export_bundle(DENSE, tmp_path / "x.vmoe", **option)


def test_a_config_may_leave_the_encoder_out(tmp_path: Path) -> None:
    export_bundle(SPARSE, tmp_path / "x.vmoe", config={"encoder": None}, validate=False)
    assert (tmp_path / "x.vmoe" / "manifest.json").is_file()
