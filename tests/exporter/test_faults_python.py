"""Wrong arguments of `export_bundle`: one named error each, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from damaged_files import DENSE, SPARSE

from vmoe_export import ConfigError, OptionError, export_bundle

WRONG: Mapping[str, Any] = MappingProxyType(
    {
        "capacity": 0.3,
        "k": 1,
        "group": 16,
        "batch_size": "8",
        "image_size": 28,
        "config": [1],
        "input": "uint16",
        "output": "probs",
        "rounding": "down",
        "bpr": "no",
        "dispatch_bf16": "false",
        "precision": "int4",
        "capacity_multiple_of": 0,
        "class_names": 10,
    }
)


@pytest.mark.parametrize("option", WRONG)
def test_an_option_of_the_wrong_type_or_value_is_named(option: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"^{option} "):
        export_bundle(SPARSE, tmp_path / "x.vmoe", **{option: WRONG[option]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", [{"capacity": [0.3]}, {"bpr": False}, {"batch_size": 2}], ids=lambda option: next(iter(option))
)
def test_a_dense_model_refuses_what_only_means_something_to_experts(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"dense ViT.* {next(iter(option))}$"):
        export_bundle(DENSE, tmp_path / "x.vmoe", **option)


@pytest.mark.parametrize(
    ("dispatcher", "router", "name"),
    [({"bfloat16": "false"}, {}, "bfloat16"), ({}, {"num_selected_experts": True}, "num_selected_experts")],
    ids=["bfloat16 as text", "k as a truth value"],
)
def test_a_config_value_of_the_wrong_type_is_named(
    dispatcher: dict[str, Any], router: dict[str, Any], name: str, tmp_path: Path
) -> None:
    config = {"encoder": {"moe": {"router": {**router, "dispatcher": dispatcher}}}}
    with pytest.raises(ConfigError, match=name):
        export_bundle(SPARSE, tmp_path / "x.vmoe", config=config)


def test_a_config_may_leave_the_encoder_out(tmp_path: Path) -> None:
    export_bundle(SPARSE, tmp_path / "x.vmoe", config={"encoder": None}, validate=False)
    assert (tmp_path / "x.vmoe" / "manifest.json").is_file()
