"""Tests of the engine: profiles, images, groups and threads.

They also check that an image's result doesn't depend on the other images in the batch.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from command_runs import kept_bundle

import vmoe_runtime
from vmoe_runtime import Engine, RoutingError, Setting, op_library

pytestmark = pytest.mark.fast

BACKENDS = ("onnxruntime", "openvino")
Images = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def engine(mnist_image_bundle: Path) -> Engine:
    return Engine.load(mnist_image_bundle)


@pytest.mark.parametrize(
    ("backend", "threads", "count"), [("onnxruntime", 1, 64), ("onnxruntime", 2, 64), ("openvino", 2, 16)]
)
def test_an_image_alone_gives_the_same_bits_as_among_others(
    mnist_image_bundle: Path, mnist_images: Images, backend: str, threads: int, count: int
) -> None:
    images = mnist_images["images"][:count]
    shuffled = np.random.default_rng(5).permutation(count)
    with Engine.load(mnist_image_bundle, backend=backend, threads=threads) as engine:
        # A capacity ratio of 1e-6 gives one slot per expert.
        for capacity, k in ((1e-6, 1), (1e-6, 2), (0.3, 1), (1.05, 2)):
            together = engine(images, capacity=capacity, k=k)
            alone = np.concatenate([engine(images[i : i + 1], capacity=capacity, k=k) for i in range(count)])
            np.testing.assert_array_equal(alone, together)
            np.testing.assert_array_equal(engine(images[shuffled], capacity=capacity, k=k), together[shuffled])
            np.testing.assert_array_equal(engine(images[:7], capacity=capacity, k=k), together[:7])
        assert engine.setting(capacity=1e-6, k=1).slots == (1,) * 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_threads_with_different_profiles_get_the_single_threaded_bits(
    mnist_bundle: Path, mnist_images: Images, backend: str
) -> None:
    batches = mnist_images["images"][: 8 * 16].reshape(8, 16, 28, 28)
    with Engine.load(mnist_bundle, backend=backend, threads=1) as engine:
        names = list(engine.profiles)[:8]
        expected = [engine(batch, name) for batch, name in zip(batches, names, strict=True)]

        def answer(i: int) -> list[np.ndarray]:
            return [engine(batches[i], names[i]) for _ in range(3)]

        with ThreadPoolExecutor(8) as pool:
            for i, answers in enumerate(pool.map(answer, range(8))):
                for found in answers:
                    np.testing.assert_array_equal(found, expected[i])


def test_a_call_may_name_a_profile_or_override_capacity_k_and_bpr(engine: Engine, mnist_images: Images) -> None:
    images = mnist_images["images"][:3]
    assert engine.profile is not None and engine.profile.name == "c0.3-k1"
    np.testing.assert_array_equal(engine(images), engine(images, "c0.3-k1"))
    np.testing.assert_array_equal(engine(images, capacity=1.05, k=2), engine(images, "c1.05-k2"))
    np.testing.assert_array_equal(engine(images, k=2), engine(images, "c0.3-k2"))
    np.testing.assert_array_equal(engine(images, bpr=False), engine(images, profile="c0.3-k1-vanilla"))
    assert not np.array_equal(engine(images), engine(images, bpr=False))


def test_a_setting_is_one_value_for_every_call(engine: Engine, mnist_images: Images) -> None:
    images = mnist_images["images"][:3]
    setting = Setting("c0.3-k1", k=2, bpr=False)
    np.testing.assert_array_equal(engine(images, setting), engine(images, "c0.3-k2-vanilla"))
    np.testing.assert_array_equal(engine(images, setting, k=1), engine(images, "c0.3-k1-vanilla"))
    assert engine.setting(setting) == engine.setting(capacity=0.3, k=2, bpr=False)
    assert engine.classify(images, 2, setting) == engine.classify(images, top=2, profile="c0.3-k2-vanilla")
    for layer, route in engine.routing(images, setting).items():
        vanilla = engine.routing(images, "c0.3-k2-vanilla")[layer]
        np.testing.assert_array_equal(route.expert, vanilla.expert)
        np.testing.assert_array_equal(route.kept, vanilla.kept)


def test_a_call_takes_the_profile_that_setting_returns(engine: Engine, mnist_images: Images) -> None:
    images = mnist_images["images"][:3]
    profile = engine.setting(capacity=0.5, k=2, pool=True)
    assert profile is not None and profile.name == "c0.5-k2-pool" and engine.setting(profile) is profile
    np.testing.assert_array_equal(engine(images, profile), engine(images, "c0.5-k2-pool"))
    np.testing.assert_array_equal(engine(images, profile, pool=False), engine(images, "c0.5-k2"))
    np.testing.assert_array_equal(engine(images, profile, profile="c0.3-k1"), engine(images, "c0.3-k1"))


def test_a_profile_of_another_model_is_refused(engine: Engine, mnist_bundle: Path, mnist_images: Images) -> None:
    with Engine.load(mnist_bundle) as grouped:
        assert grouped.profile is not None and engine.profile is not None
        assert grouped.profile.slots != engine.setting(grouped.profile.name).slots  # type: ignore[union-attr]
        with pytest.raises(RoutingError, match=r"profile 'c0.1-k1' was made for another model"):
            engine(mnist_images["images"][:1], grouped.profile)
    with Engine.load(mnist_bundle) as again:
        assert again(mnist_images["images"][:16], grouped.profile).shape == (16, 10)


def test_a_profile_that_was_changed_by_hand_is_refused_as_its_slots_are_not_those_of_its_values(engine: Engine) -> None:
    assert engine.profile is not None
    with pytest.raises(RoutingError, match=r"was not made by an engine; change one as in engine\.setting\(profile, k=2\)"):
        engine.setting(replace(engine.profile, capacity=1.05))
    assert engine.setting(pickle.loads(pickle.dumps(engine.profile))) == engine.profile


def test_the_profile_of_an_engine_stays(engine: Engine) -> None:
    with pytest.raises(AttributeError):
        engine.profile = "c0.3-k1"  # type: ignore[assignment, misc]


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_and_flags_may_be_those_of_numpy(backend: str, mnist_image_bundle: Path, mnist_images: Images) -> None:
    flags: dict[str, Any] = dict.fromkeys(("spin", "verify", "exif"), np.True_)
    numbers: dict[str, Any] = {"threads": np.int64(1), "streams": np.uint8(1)}
    with Engine.load(mnist_image_bundle, backend=backend, **numbers, **flags) as engine:
        images = mnist_images["images"][:2]
        assert engine.classify(images, np.int8(3)) == engine.classify(images, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in vmoe_runtime.__all__ if callable(getattr(vmoe_runtime, name))])
def test_hints_of_public_names_can_be_evaluated(name: str) -> None:
    public = getattr(vmoe_runtime, name)
    for member in (public, *(vars(public).values() if isinstance(public, type) else ())):
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if isinstance(function, type | FunctionType):
            typing.get_type_hints(function)
        if isinstance(function, FunctionType):
            inspect.signature(function, eval_str=True)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_an_engine_is_not_copied_to_another_process(engine: Engine, copied: Callable[[Engine], object]) -> None:
    with pytest.raises(TypeError, match="an engine can't be pickled or copied; load it in each process that uses it"):
        copied(engine)


@pytest.mark.parametrize("setting", [0.3, ("c0.3-k1", 0.3), b"c0.3-k1"])
def test_what_is_no_setting_is_refused(engine: Engine, mnist_images: Images, setting: Any) -> None:
    with pytest.raises(RoutingError, match="a setting is a Setting, a Profile or the name of a profile"):
        engine(mnist_images["images"][:1], setting)


def test_a_profile_chosen_at_load_is_the_default(mnist_image_bundle: Path, mnist_images: Images) -> None:
    images = mnist_images["images"][:2]
    with Engine.load(mnist_image_bundle, profile="c1.05-k2") as engine:
        np.testing.assert_array_equal(engine(images), engine(images, capacity=1.05, k=2, bpr=True))
    with Engine.load(mnist_image_bundle, Setting(capacity=0.4, k=2)) as engine:
        assert engine.profile is not None and engine.profile.name == "c0.4-k2"


def test_routing_tells_where_each_token_went(engine: Engine, mnist_images: Images) -> None:
    routes = engine.routing(mnist_images["images"][:4], capacity=0.3, k=2)
    assert list(routes) == [f"encoderblock_{i}" for i in range(5)]
    slots = engine.setting(capacity=0.3, k=2).slots[0]  # type: ignore[union-attr]
    for route in routes.values():
        expert, kept, weight = (getattr(route, name) for name in ("expert", "kept", "weight"))
        assert expert.shape == kept.shape == weight.shape == (4, 50, 2)
        assert (expert.dtype, kept.dtype, weight.dtype) == (np.int32, bool, np.float32)
        assert (expert[..., 0] != expert[..., 1]).all()
        taken = np.stack([np.bincount(experts[keeps], minlength=8) for experts, keeps in zip(expert, kept, strict=True)])
        assert taken.max() == slots
        assert (weight[..., 0] >= weight[..., 1]).all()
        assert route.patch_mask().shape == (4, 7, 7)
        # The class token comes first and is not a patch.
        np.testing.assert_array_equal(route.patch_mask().reshape(4, 49), kept.any(axis=2)[:, 1:])


def test_auto_takes_what_is_fastest_for_the_bundle_and_says_what_runs(
    engine: Engine, mnist_image_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if op_library.find_library() is not None:
        assert engine.backend == "onnxruntime"
        assert re.fullmatch(r"ONNX Runtime 1\.\S+ CPU, vmoe op library, \w+", engine.backend_description)
    monkeypatch.setattr(op_library, "find_library", lambda: None)
    with Engine.load(mnist_image_bundle) as without_library:
        assert without_library.backend == "openvino"
        assert re.fullmatch(r"OpenVINO 20\S+ CPU, standard ops, f32", without_library.backend_description)


def test_a_dense_vit_has_no_routing_settings() -> None:
    images = np.zeros((2, 12, 12, 3), np.uint8)
    with Engine.load(kept_bundle("dense")) as engine:
        assert (engine.routing(images), engine.profiles, engine.profile) == ({}, {}, None)
        with pytest.raises(RoutingError, match="dense model"):
            engine(images, capacity=0.3)
