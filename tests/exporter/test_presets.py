"""Tests for presets for the released checkpoints.

Each preset must accept only tensors with its checkpoint's shapes, and must set the options that the user omits.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import pytest
from command_runs import Refuse
from damaged_files import refusal
from export_plans import planned, sparse_file

from vmoe_export import ConfigError, ExportOptions, OptionError
from vmoe_export.class_names import names_of
from vmoe_export.model.model_config import TopK
from vmoe_export.model.model_description import describe_model
from vmoe_export.model.parameters import parameter_shapes
from vmoe_export.presets import PRESETS, preset_in
from vmoe_tools.program import main

pytestmark = pytest.mark.fast

LIGHT1 = "vmoe_s32_last2_ilsvrc2012_randaug_light1"
LIGHT1_FT = f"{LIGHT1}_ft_ilsvrc2012"
MEDIUM = "vmoe_s32_last2_ilsvrc2012_randaug_medium"
STRONG = "vmoe_b16_imagenet21k_randaug_strong"
STRONG_FT = f"{STRONG}_ft_ilsvrc2012"
EEE = "eee_s32_last2_ilsvrc2012"
EEE_FT = f"{EEE}_ft_cifar100"

STEPS_224 = "resize_small(256)|central_crop(224)"
Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Released:
    """A released checkpoint, as described by its authors.

    `router` is the shape of a router's kernel without the first dimension, D.
    """

    variant: str
    layers: str
    pixels: int
    classes: int
    pre_logits: int | None
    ratio: float
    steps: str
    class_names: str | None
    k: int = 2
    members: int = 1
    router: tuple[int, ...] = (8,)


RELEASED = {
    LIGHT1: Released("S/32", "Last 2", 224, 1000, 512, 1.05, STEPS_224, "imagenet1k"),
    LIGHT1_FT: Released("S/32", "Last 2", 384, 1000, None, 1.5, "resize(384)", "imagenet1k"),
    MEDIUM: Released("S/32", "Last 2", 224, 1000, 512, 1.05, STEPS_224, "imagenet1k"),
    STRONG: Released("B/16", "Every 2", 224, 21_843, None, 1.05, STEPS_224, None),
    STRONG_FT: Released("B/16", "Every 2", 384, 1000, None, 1.5, "resize(384)", "imagenet1k"),
    EEE: Released("S/32", "Last 2", 224, 1000, 512, 1.05, STEPS_224, "imagenet1k", 1, 2),
    EEE_FT: Released("S/32", "Last 2", 128, 100, 512, 1.5, "resize(128)", "cifar100", 1, 2, (2, 4)),
}
SAME_SHAPES = {LIGHT1, MEDIUM, EEE}


@pytest.fixture(scope="module")
def shapes(writer: ModuleType) -> dict[str, Shapes]:
    return {name: shapes_of(writer, released) for name, released in RELEASED.items()}


@pytest.fixture(scope="module")
def files(shapes: dict[str, Shapes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("released")
    return {name: sparse_file(folder / f"{i}.safetensors", of) for i, (name, of) in enumerate(shapes.items())}


def shapes_of(writer: ModuleType, released: Released) -> Shapes:
    size = writer.VARIANTS[released.variant]
    layers = writer.moe_layers(released.layers, size.num_layers)
    model = writer.describe(size, released.pixels, released.classes, 8, layers, released.pre_logits)
    return {
        name: (shape[0], *released.router) if name.endswith("/Router/dense/kernel") else shape
        for name, shape in parameter_shapes(model).items()
    }


def test_every_released_checkpoint_has_a_preset() -> None:
    assert list(PRESETS) == list(RELEASED)


@pytest.mark.parametrize("name", RELEASED)
def test_a_preset_describes_tensors_of_its_shapes(name: str, shapes: dict[str, Shapes]) -> None:
    released = RELEASED[name]
    model = describe_model(shapes[name], PRESETS[name].config)
    assert model.moe is not None
    assert model.image_size == PRESETS[name].image_size == (released.pixels, released.pixels)
    assert (model.num_classes, model.representation_size) == (released.classes, released.pre_logits)
    moe = model.moe
    assert isinstance(moe.routing, TopK)
    assert (moe.num_experts, moe.dispatch_bf16) == (8, True)
    assert (moe.routing.k, moe.routing.capacity_ratio) == (released.k, released.ratio)
    assert moe.layers == ((5, 7) if released.variant == "S/32" else (1, 3, 5, 7, 9, 11))
    assert moe.routing.ensemble_size == released.members
    assert {field: model.origins[field] for field in ("k", "capacity_ratio", "dispatch_bf16")} == dict.fromkeys(
        ("k", "capacity_ratio", "dispatch_bf16"), "config"
    )


@pytest.mark.parametrize("name", RELEASED)
def test_every_other_preset_is_refused_where_shapes_tell(name: str, files: dict[str, Path]) -> None:
    """Check that each preset refuses the checkpoints of all other presets, except for the pairs in SAME_SHAPES.

    Shapes can't distinguish three checkpoints: light1, medium, and the E3 that isn't fine-tuned. This E3 has the shapes of a
    V-MoE.
    """
    for other in PRESETS:
        if other == name or {name, other} <= SAME_SHAPES:
            continue
        with refusal(ConfigError, str(files[name]), other):
            planned(files[name], preset=other)


@pytest.mark.parametrize("name", RELEASED)
def test_what_the_user_does_not_say_is_the_presets(name: str, files: dict[str, Path]) -> None:
    released, plan = RELEASED[name], planned(files[name], preset=name)
    assert str(plan.preprocessing) == released.steps
    expected = released.class_names and names_of(released.class_names)
    assert plan.options.class_names == expected
    assert [(p.capacity_ratio, p.k) for p in plan.profiles] == [(released.ratio, released.k)]


def test_what_the_user_says_beats_the_preset(files: dict[str, Path]) -> None:
    names = [str(i) for i in range(1000)]
    given = {"preprocess": "resize(224)", "class_names": names, "dispatch_bf16": False, "capacity": [0.5], "k": [1]}
    plan = planned(files[LIGHT1], preset=LIGHT1, **given)
    assert str(plan.preprocessing) == "resize(224)"
    assert plan.options.class_names == names
    assert plan.model.moe is not None
    assert not plan.model.moe.dispatch_bf16
    assert [profile.name for profile in plan.profiles] == ["c0.5-k1"]


def test_tensors_of_another_image_size_are_not_resized_in_silence(writer: ModuleType, tmp_path: Path) -> None:
    shapes = shapes_of(writer, dataclasses.replace(RELEASED[LIGHT1_FT], pixels=320))
    path = sparse_file(tmp_path / "x.safetensors", shapes)
    with refusal(ConfigError, f"preset {LIGHT1_FT} is for 384x384 px", "--image-size 320x320"):
        planned(path, preset=LIGHT1_FT)
    assert planned(path, preset=LIGHT1_FT, image_size=(320, 320)).model.image_size == (320, 320)
    assert planned(path, preset=LIGHT1_FT, image_size=(384, 384)).model.image_size == (384, 384)


@pytest.mark.parametrize(
    ("stem", "found"),
    [
        (LIGHT1, LIGHT1),
        (f"my_{LIGHT1_FT}-2", LIGHT1_FT),  # must not match light1, although it contains the name light1
        ("vmoe_s32_last2_ilsvrc2012", None),
    ],
)
def test_a_name_is_a_hint_and_nothing_more(stem: str, found: str | None, shapes: dict[str, Shapes], tmp_path: Path) -> None:
    path = sparse_file(tmp_path / f"{stem}.safetensors", shapes[found or LIGHT1])
    assert preset_in(path.name) is (PRESETS[found] if found else None)
    plan = planned(path)
    hints = [note for note in plan.notes if "--preset" in note]
    assert [f"--preset {found} takes its config" in hint for hint in hints] == ([True] if found else [])
    assert plan.model.moe is not None
    assert (plan.options.class_names, plan.model.moe.dispatch_bf16) == (None, False)
    for options in ({"preset": found or LIGHT1}, {"config": {}}):
        assert not [note for note in planned(path, **options).notes if "the name contains" in note]


def test_preset_and_config_exclude_each_other(files: dict[str, Path], refuse_export: Refuse) -> None:
    with pytest.raises(OptionError, match="excludes --config"):
        ExportOptions(preset=LIGHT1, config={})
    words = (files[LIGHT1], "--preset", LIGHT1, "--config", "model.json")
    refuse_export(*words, names=[f"--preset {LIGHT1}", "--config"], code=2)


def test_a_bundle_takes_no_preset(mnist_image_bundle: Path, refuse_export: Refuse) -> None:
    words = (mnist_image_bundle, "--preset", LIGHT1, "--dry-run")
    refuse_export(*words, names=["is a bundle", "omit --preset"], code=2)


def test_an_unknown_preset_on_the_command_line(refuse_export: Refuse) -> None:
    refuse_export("x", "--preset", "light1", names=["--preset", "light1", *PRESETS], code=2)


def test_lists_of_class_names_are_those_of_the_data_sets() -> None:
    imagenet, cifar = names_of("imagenet1k"), names_of("cifar100")
    assert (len(set(imagenet)), len(set(cifar))) == (1000, 100)
    assert [imagenet[i] for i in (0, 207, 517, 985)] == ["tench", "golden retriever", "crane (n03126707)", "daisy"]
    assert list(cifar) == sorted(cifar)
    # Pictures get their labels from the names of their folders, so class names must be valid folder names.
    assert all(text == text.strip() != "" and "/" not in text for text in (*imagenet, *cifar))


def test_class_names_by_the_name_of_a_list(
    files: dict[str, Path], tmp_path: Path, refuse_export: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that class names can be given by the name of a built-in list.

    If a file has the same name as a list, the user must write ./ before it to select the file.
    """
    monkeypatch.chdir(tmp_path)
    Path("imagenet1k").write_text("one\ntwo\n")
    assert main(["export", str(files[LIGHT1]), "--class-names", "imagenet1k", "--dry-run", "-q"]) == 0
    for name, names in (
        ("./imagenet1k", ["2 class names", "1000 outputs"]),
        ("cifar100", ["100 class names", "1000 outputs"]),
        ("imagenet21k", ["--class-names imagenet21k can't be read"]),
    ):
        refuse_export(files[LIGHT1], "--dry-run", "--class-names", name, names=names, code=2)
