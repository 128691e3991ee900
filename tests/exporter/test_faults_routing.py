"""Check that routing options that don't fit the kind of model give one sentence, exit code 2, and no bundle."""

from __future__ import annotations

import json
from pathlib import Path

import golden
import pytest
from command_runs import Refuse

from vmoe_export import export_bundle
from vmoe_runtime import BackendError, Engine

pytestmark = pytest.mark.fast

TOP_K, DENSE, ENSEMBLE, SOFT, CHOICE = "g1", "g4", "g5", "g6", "g7"
KINDS = {SOFT: "Soft MoE", CHOICE: "expert choice", DENSE: "dense ViT"}
TAKES_NO = {
    SOFT: [
        "k 2",
        "capacity 1",
        "bpr",
        "pool",
        "max-experts 2",
        "rounding ceil",
        "capacity-multiple-of 4",
        "ensemble-size 2",
    ],
    CHOICE: ["k 1", "no-bpr", "pool", "no-pool", "max-experts 2"],
    DENSE: ["pool", "no-pool", "max-experts 2", "router top-k", "router experts-choice"],
}
REFUSED = [
    *(
        (model, f"--{option}".split(), [KINDS[model], f"takes no {option.split()[0].removeprefix('no-').replace('-', '_')}"])
        for model, options in TAKES_NO.items()
        for option in options
    ),
    (SOFT, ["--no-bpr", "--k", "1"], ["Soft MoE", "takes no k or bpr"]),
    (SOFT, ["--router", "top-k"], ["--router top-k", "Soft MoE"]),
    (SOFT, ["--router", "experts-choice"], ["--router experts-choice", "Soft MoE"]),
    (SOFT, ["--tensorrt"], ["no TensorRT graphs of Soft MoEs"]),
    (SOFT, ["--output", "members"], ["not an ensemble"]),
    (CHOICE, ["--tensorrt"], ["no TensorRT graphs of expert choice"]),
    (CHOICE, ["--ensemble-size", "2"], ["do not support expert choice"]),
    (CHOICE, ["--capacity", "7"], ["7", "number of experts, 6"]),
    (CHOICE, ["--output", "members"], ["not an ensemble"]),
    (TOP_K, ["--max-experts", "0"], ["max_experts", "0"]),
    (TOP_K, ["--max-experts", "-1"], ["max_experts", "-1"]),
    (TOP_K, ["--max-experts", "all"], ["--max-experts", "all"]),
    (TOP_K, ["--router", "soft"], ["--router", "soft"]),
    (TOP_K, ["--router", "experts-choice", "--k", "2"], ["expert choice", "takes no k"]),
    (TOP_K, ["--pool", "--tensorrt"], ["no TensorRT graphs of profiles with pool"]),
    (TOP_K, ["--max-experts", "3", "--tensorrt"], ["no TensorRT graphs of profiles with max_experts"]),
    (ENSEMBLE, ["--pool"], ["ensembles (E3) are routed officially: they take no pool"]),
    (ENSEMBLE, ["--max-experts", "2"], ["ensembles (E3) are routed officially: they take no max_experts"]),
    (ENSEMBLE, ["--router", "experts-choice"], ["do not support expert choice"]),
]


@pytest.mark.parametrize(("model", "options", "words"), REFUSED, ids=lambda value: " ".join(value) if value else "")
def test_an_option_that_does_not_fit(
    model: str, options: list[str], words: list[str], tmp_path: Path, refuse_export: Refuse
) -> None:
    config = tmp_path / "model.json"
    config.write_text(json.dumps(golden.settings(model)["model"]))
    size = ["--image-size", "40"] if model in (SOFT, CHOICE) else []
    refuse_export(golden.FOLDER / model, "--config", config, *size, *options, names=words, code=2)


def test_a_pool_is_no_profile_of_the_tensorrt_graphs(mnist_checkpoint: Path, tmp_path: Path) -> None:
    path = export_bundle(mnist_checkpoint, tmp_path / "x.vmoe", capacity=[0.3], k=[1], tensorrt=True, validate=False).path
    for profile in ("c0.3-k1-pool", "c0.3-k1-m2"):
        with pytest.raises(BackendError, match=f"TensorRT.*'{profile}'"):
            Engine.load(path, profile, "tensorrt")
