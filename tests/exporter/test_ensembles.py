"""Tests for ensembles of experts (E3).

They check how the exporter recognizes ensembles, what the exported ensembles return, and which options are refused.
"""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import pytest
import safetensors.numpy
from damaged_files import copied_checkpoint, read_tensors, refusal
from export_plans import planned

from vmoe_export import export_bundle, open_checkpoint
from vmoe_export.errors import ConfigError, OptionError
from vmoe_runtime import ClassifyError, Engine, RoutingError

# routers have shape [D, E] in the pre-trained model, and [D, M, E/M] with M = 2 in the fine-tuned one
PRE_TRAINED, FINE_TUNED = golden.FOLDER / "g5p", golden.FOLDER / "g5"
PLAIN = golden.FOLDER / "g1"


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensembles")
    return golden.bundle("g5", folder / "prediction.vmoe", capacity=[0.5], k=[1, 2], class_names=list("abcdefghi"))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensembles")
    return golden.bundle("g5", folder / "members.vmoe", capacity=[0.5], k=[1, 2], output="members")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return golden.arrays("g5")["images"][:4]


def test_the_routers_of_a_fine_tuned_one_tell() -> None:
    model = planned(FINE_TUNED).model
    assert (model.ensemble_size, model.origins["ensemble_size"]) == (2, "inferred")
    assert planned(FINE_TUNED, ensemble_size=2).grouping.tokens == 2 * 26


def test_a_pre_trained_one_is_what_the_user_says() -> None:
    assert planned(PRE_TRAINED).model.ensemble_size == 1  # the tensors don't show that this model is an ensemble
    assert planned(PRE_TRAINED, ensemble_size=2).model.ensemble_size == 2
    assert planned(PRE_TRAINED, config={"encoder": {"moe": {"ensemble_size": 4}}}).model.ensemble_size == 4
    unsaid = {"encoder": {"moe": {"ensemble_size": None}}}
    assert [planned(checkpoint, config=unsaid).model.ensemble_size for checkpoint in (PRE_TRAINED, FINE_TUNED)] == [1, 2]


def test_a_name_that_says_eee_needs_an_answer(tmp_path: Path) -> None:
    checkpoint = copied_checkpoint(tmp_path, PRE_TRAINED, "my_eee_s32")
    with refusal(ConfigError, "my_eee_s32", "--ensemble-size M", "--ensemble-size 1"):
        planned(checkpoint)
    assert planned(checkpoint, ensemble_size=1).model.ensemble_size == 1
    assert planned(checkpoint, ensemble_size=2).model.ensemble_size == 2
    plain = {"name": "VisionTransformerMoe"}
    assert planned(checkpoint, config=plain).model.ensemble_size == 1
    assert planned(copied_checkpoint(tmp_path, FINE_TUNED, "eee_ft")).model.ensemble_size == 2


@pytest.mark.parametrize("output", ["logits", "members"])
def test_both_layouts_make_the_same_bundle(output: str, tmp_path: Path) -> None:
    with open_checkpoint(FINE_TUNED) as one, open_checkpoint(PRE_TRAINED) as other:
        router = "Encoder/encoderblock_1/Moe/Router/dense/kernel"
        np.testing.assert_array_equal(one[router].reshape(36, 8), other[router])
    for name, checkpoint in (("one", FINE_TUNED), ("other", PRE_TRAINED)):
        export_bundle(checkpoint, tmp_path / name, ensemble_size=2, output=output, validate=False)  # type: ignore[arg-type]
    for file in ("model.onnx", "model.inlined.onnx", "weights.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_prediction_is_the_mean_probability_of_the_members(
    prediction: Path, members: Path, images: np.ndarray, backend: str
) -> None:
    with Engine.load(prediction, backend=backend) as one, Engine.load(members, backend=backend) as each:
        logits = each(images).astype(np.float64)
        assert logits.shape == (4, 2, 9)
        shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(one(images), np.log(shares.mean(axis=1)), rtol=0, atol=1e-5)
        assert "E3 of 2 members" in repr(one)
        (best, _), *_ = one.classify(images, top=1)[0]
        assert best == "abcdefghi"[shares[0].mean(axis=0).argmax()]
        with pytest.raises(ClassifyError, match="each member's logits"):
            each.classify(images)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_image_alone_gives_the_same_bits_as_among_others(members: Path, images: np.ndarray, backend: str) -> None:
    with Engine.load(members, backend=backend, threads=2) as engine:
        for k in (1, 2):
            together = engine(images, k=k)
            for i in range(4):
                np.testing.assert_array_equal(engine(images[i : i + 1], k=k), together[i : i + 1])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_attention_that_pools_all_tokens_alike_gives_the_members_of_a_mean(tmp_path: Path, backend: str) -> None:
    tensors = read_tensors(golden.FOLDER / "g5b")
    block = "Encoder/encoderblock_1/"
    head = {name.removeprefix(block): 0 * values for name, values in tensors.items() if name.startswith(block)}
    head = {name.replace("SelfAttention", "MultiHeadDotProductAttention"): values for name, values in head.items()}
    head |= {f"LayerNorm/{name}": head.pop(f"LayerNorm_0/{name}") for name in ("scale", "bias")}
    head |= {"MultiHeadDotProductAttention/value/kernel": np.eye(28, dtype=np.float32).reshape(28, 2, 14)}
    head |= {"MultiHeadDotProductAttention/out/kernel": np.eye(28, dtype=np.float32).reshape(2, 14, 28)}
    head |= {"probe": np.ones((1, 1, 28), np.float32)}
    tensors |= {f"MapHead/{name}": values for name, values in head.items() if "LayerNorm_1" not in name}
    safetensors.numpy.save_file(tensors, tmp_path / "map.safetensors")
    config = golden.settings("g5b")["model"] | {"classifier": "map"}
    golden.bundle("g5b", tmp_path / "map.vmoe", tmp_path / "map.safetensors", config=config, output="members", validate=True)
    golden.bundle("g5b", tmp_path / "mean.vmoe", output="members")
    images = golden.arrays("g5b")["images"][:3]
    with Engine.load(tmp_path / "map.vmoe", backend=backend) as one, Engine.load(tmp_path / "mean.vmoe") as other:
        np.testing.assert_allclose(one(images), other(images), rtol=0, atol=1e-5)


def test_members_keep_to_their_own_experts(members: Path, images: np.ndarray) -> None:
    with Engine.load(members) as engine:
        for route in engine.routing(images, k=2).values():
            assert route.expert is not None and route.kept is not None
            assert route.expert.shape == (4, 2 * 26, 2)  # a token's two members follow each other
            member = np.arange(2 * 26)[None, :, None] % 2
            assert route.kept.any()
            assert (route.expert // 4 == member).all()
            assert route.patch_mask().shape == (4, 5, 5)


def test_an_export_of_a_bundle_stays_an_ensemble(members: Path, tmp_path: Path) -> None:
    plan = planned(members)
    assert (plan.model.ensemble_size, plan.output, [p.k for p in plan.profiles]) == (2, "members", [1, 2])
    assert planned(members, output="logits").output == "logits"


BAD = {
    "a member too many": (FINE_TUNED, {"ensemble_size": 4}, ConfigError, "those of 2 members"),
    "a plain one that is none": (FINE_TUNED, {"ensemble_size": 1}, ConfigError, "those of 2 members"),
    "members that don't divide the experts": (PRE_TRAINED, {"ensemble_size": 3}, ConfigError, "divides 8 experts"),
    "more members than experts": (PRE_TRAINED, {"ensemble_size": 16}, ConfigError, "divides 8 experts"),
    "no members": (PRE_TRAINED, {"ensemble_size": 0}, ConfigError, "ensemble size is 0"),
    "members in words": (PRE_TRAINED, {"ensemble_size": "two"}, OptionError, "ensemble_size"),
    "members by half": (PRE_TRAINED, {"ensemble_size": 2.5}, OptionError, "ensemble_size"),
    "a config of other members": (
        FINE_TUNED, {"config": {"encoder": {"moe": {"ensemble_size": 4}}}}, ConfigError, "those of 2 members",
    ),
    "a config with members in words": (
        PRE_TRAINED, {"config": {"encoder": {"moe": {"ensemble_size": "2"}}}}, ConfigError, "'2'",
    ),
    "a config of an ensemble without a size": (
        PRE_TRAINED, {"config": {"name": "VisionTransformerMoeEnsemble"}}, ConfigError, "--ensemble-size M",
    ),
    "a k above a member's experts": (FINE_TUNED, {"k": [5]}, RoutingError, "of a member, 4, not 5"),
    "a config with a k above a member's experts": (
        FINE_TUNED,
        {"config": {"encoder": {"moe": {"router": {"num_selected_experts": 5}}}}},
        ConfigError,
        "2 members has 4",
    ),
    "features": (FINE_TUNED, {"output": "features"}, OptionError, "logits or members"),
    "members of a plain V-MoE": (PLAIN, {"output": "members"}, OptionError, "no members"),
    "members of a dense ViT": (golden.FOLDER / "g4", {"output": "members"}, OptionError, "no members"),
    "an ensemble of a dense ViT": (golden.FOLDER / "g4", {"ensemble_size": 2}, OptionError, "ensemble_size"),
    "graphs for TensorRT": (FINE_TUNED, {"tensorrt": True}, OptionError, "--tensorrt"),
    "a group that parts the members of a token": (FINE_TUNED, {"group": "tokens:13"}, OptionError, "multiple"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_in_a_sentence(name: str) -> None:
    checkpoint, options, kind, words = BAD[name]
    with refusal(kind, words):
        planned(checkpoint, **options)


def test_one_without_a_head_needs_one(tmp_path: Path) -> None:
    tensors = read_tensors(FINE_TUNED)
    head = {"kernel": tensors.pop("head/kernel"), "bias": tensors.pop("head/bias")}
    safetensors.numpy.save_file(tensors, tmp_path / "trunk.safetensors")
    with refusal(OptionError, "has no head; pass one with --head"):
        planned(tmp_path / "trunk.safetensors")
    np.savez(tmp_path / "head.npz", **head)
    assert planned(tmp_path / "trunk.safetensors", head=tmp_path / "head.npz").output == "logits"


def test_an_engine_refuses_a_k_above_a_members_experts(members: Path, images: np.ndarray) -> None:
    with Engine.load(members) as engine, pytest.raises(RoutingError, match="of a member, 4, not 5"):
        engine(images, k=5)
