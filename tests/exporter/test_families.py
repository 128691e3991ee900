"""Check that bundles for other libraries' ViTs have the same outputs as those libraries.

Files of models that only look like such ViTs must be refused.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from command_runs import Vmoe
from family_files import Family, Layout, Size, families, write_files
from family_lookalikes import LOOKALIKES, Lookalike
from plain_graph import plain_graph

from vmoe_export import ExportError, OptionError, export_bundle, open_checkpoint
from vmoe_export.export import ExportResult
from vmoe_export.families import clip_moe
from vmoe_export.families.image_processors import processor_steps
from vmoe_export.pruning.experts import prunable_moe
from vmoe_runtime import Engine
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, WEIGHTS_NAME
from vmoe_runtime.errors import VmoeError
from vmoe_runtime.op_library import usable_library
from vmoe_torch import load_model

CLIP_MOE = Path(__file__).parents[1] / "data" / "clip_moe"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CASES = [
    pytest.param(each, size, id=f"{name}-{size}")
    for name, each in families().items()
    for size in ("size", "other_size")
    if size == "size" or each.other_size != each.size
]
SOME = [
    "vit",
    "clip",
    "dinov2_registers_classifier",
    "siglip",
    "timm_qk_norm",
    "timm_registers_with_positions",
    "deit_distilled",
    "dinov3_gated",
    "aimv2",
    "timm_eva02_split",
    "timm_eva02_clip",
    "timm_pe_core",
]


def in_range(pictures: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Convert preprocessed pictures [N,3,h,w] to float32[N,h,w,3] in [-1, 1], the input of bundles.

    The function first undoes the normalization by `mean` and `std`, which gives pixels from 0 to 1. It then scales them.
    """
    pixels = pictures.transpose(0, 2, 3, 1).astype(np.float64) * np.array(std) + np.array(mean)
    return np.asarray(2 * pixels - 1, np.float32)


def run(result: ExportResult, images: np.ndarray, *, library: bool = True) -> list[np.ndarray]:
    """Run an exported bundle's graph, and return its outputs.

    The graph runs without an engine, because an engine refuses pixels outside [-1, 1].
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if library and (path := usable_library()[0]):
        options.register_custom_ops_library(str(path))
    session = onnxruntime.InferenceSession(str(result.path / CANONICAL_GRAPH), options, providers=["CPUExecutionProvider"])
    settings = result.plan.profiles[0].inputs if result.plan.profiles else {}
    return session.run(None, {session.get_inputs()[0].name: images, **settings})


def exported(family: Family, folder: Path, **options: Any) -> ExportResult:
    return export_bundle(family.write(folder / "model"), folder / "model.vmoe", validate=False, **options)


@pytest.mark.sample(12)
@pytest.mark.parametrize(("family", "size"), CASES)
def test_a_bundle_computes_what_the_library_does(family: Family, size: Size, tmp_path: Path) -> None:
    moe = (family.arguments or {}).get("MoE_args") or [0, 0]
    options = {"k": [moe[1]], "capacity": [moe[0] / moe[1]]} if moe[0] else {}
    result = exported(family, tmp_path, image_size=tuple(getattr(family, size)), **options)
    settings = family.preprocessor_config or family.config.get("pretrained_cfg") or clip_moe.FAMILY.processor
    _, mean, std = processor_steps(settings)
    images = in_range(family.pictures(size), mean, std)
    for library in (True, False):
        found = run(result, images, library=library)[0]
        for dtype in ("float32", "float64"):
            np.testing.assert_allclose(found, family.expected(size, dtype), rtol=0, atol=5e-5)


@pytest.mark.sample(5)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.name)
def test_validation_accepts_every_precision(family: Family, precision: Any, tmp_path: Path) -> None:
    result = export_bundle(family.write(tmp_path / "model"), tmp_path / "model.vmoe", precision=precision)
    assert result.comparisons and (precision == "fp32") == (not result.distances)


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", SOME)
def test_bits_do_not_depend_on_neighbours_or_threads_and_openvino_agrees(name: str, tmp_path: Path) -> None:
    result = exported(families()[name], tmp_path)
    images = np.random.default_rng(0).uniform(-1, 1, (5, 32, 32, 3)).astype(np.float32)
    one, two = (Engine.load(result.path, threads=threads) for threads in (1, 2))
    together = one(images)
    assert together.tobytes() == two(images).tobytes()
    assert together.tobytes() == b"".join(two(image[None]).tobytes() for image in images)
    np.testing.assert_allclose(Engine.load(result.path, backend="openvino")(images), together, rtol=0, atol=5e-5)


@pytest.mark.parametrize("merge", [1, 3])
def test_tokens_merge_but_for_those_in_front(merge: int, tmp_path: Path) -> None:
    result = exported(families()["timm_registers_with_positions"], tmp_path, merge=merge)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    library, standard = (run(result, images, library=library)[0] for library in (True, False))
    np.testing.assert_allclose(library, standard, rtol=0, atol=5e-5)
    assert np.abs(library - Engine.load(result.path)(images, merge=0)).max() > 1e-4


def test_a_graph_for_tensorrt_merges_as_many_tokens_behind_several_in_front(tmp_path: Path) -> None:
    family = families()["timm_registers"]
    third = {name.replace(".1.", ".2."): shape for name, shape in family.shapes.items() if "blocks.1." in name}
    config = family.config | {"model_args": family.config["model_args"] | {"depth": 3}}
    result = exported(replace(family, shapes=family.shapes | third, config=config), tmp_path, merge=7, tensorrt=True)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    graph = OnnxRuntimeBackend(plain_graph(result.path / "r7.tensorrt.onnx"))
    np.testing.assert_allclose(graph.run({"image": images}, ["logits"])[0], run(result, images)[0], rtol=0, atol=5e-5)


@pytest.mark.sample(6)
@pytest.mark.parametrize("layout", ["sharded", "bin", "sharded_bin", "pth"])
@pytest.mark.parametrize("name", ["vit", "clip", "timm_layer_scale"])
def test_other_files_hold_the_same_model(name: str, layout: Layout, tmp_path: Path) -> None:
    family = families()[name]
    usual = exported(family, tmp_path)
    other = export_bundle(family.write(tmp_path / layout, layout), tmp_path / "other.vmoe", validate=False)
    assert (usual.path / WEIGHTS_NAME).read_bytes() == (other.path / WEIGHTS_NAME).read_bytes()


def test_of_a_training_programs_file_only_the_model_is_read(tmp_path: Path) -> None:
    family = families()["timm_token"]
    usual, folder, file = exported(family, tmp_path), tmp_path / "training", tmp_path / "training" / "last.pth.tar"
    write_files(folder, family.config, family.tensors)
    (folder / "model.safetensors").unlink()
    state = {name: torch.from_numpy(value) for name, value in family.tensors.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "state_dict": state, "optimizer": optimizer}
    torch.save(content | {"model_ema": state}, file)
    result = export_bundle(folder, tmp_path / "trained.vmoe", validate=False)
    assert (usual.path / WEIGHTS_NAME).read_bytes() == (result.path / WEIGHTS_NAME).read_bytes()
    assert "ignored (not part of the model): model_ema, optimizer" in result.plan.notes
    lightning = export_bundle(file.rename(folder / "last.ckpt"), tmp_path / "lightning.vmoe", validate=False)
    assert (usual.path / WEIGHTS_NAME).read_bytes() == (lightning.path / WEIGHTS_NAME).read_bytes()
    torch.save(content | {"model": state}, file)
    with pytest.raises(VmoeError, match="holds two models"):
        export_bundle(folder, tmp_path / "two.vmoe")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/code/__torch__.py", "class Model(Module):\n  ")
    with pytest.raises(VmoeError, match="TorchScript program"):
        export_bundle(folder, tmp_path / "script.vmoe")


def test_a_bundle_of_a_family_is_used_only_as_the_family_allows(tmp_path: Path) -> None:
    vit, clip_moe = exported(families()["vit"], tmp_path), exported(families()["clipmoe"], tmp_path / "moe")
    title, refused = "ViT .Hugging Face transformers.", "only official models"
    with pytest.raises(VmoeError, match=f"{title}.*image size"):
        export_bundle(vit.path, tmp_path / "large.vmoe", image_size=(48, 48))
    with pytest.raises(VmoeError, match=f"{title}; {refused}"):
        load_model(vit.path)
    for path in (clip_moe.path, tmp_path / "moe" / "model"):
        with open_checkpoint(path) as opened, pytest.raises(VmoeError, match=f"CLIP.*; {refused}"):
            prunable_moe(opened)
    with pytest.raises(VmoeError, match=f"the weights of a bundle.*{vit.path}"):
        export_bundle(vit.path / WEIGHTS_NAME, tmp_path / "again.vmoe")


def test_a_bundle_of_a_family_can_be_exported_once_more(tmp_path: Path) -> None:
    for name in SOME:
        first = exported(families()[name], tmp_path / name)
        again = export_bundle(first.path, tmp_path / f"{name}.vmoe", validate=False)
        assert (first.path / CANONICAL_GRAPH).read_bytes() == (again.path / CANONICAL_GRAPH).read_bytes(), name


def test_clip_moe_routes_and_answers_as_the_original(tmp_path: Path) -> None:
    expected = np.load(CLIP_MOE / "reference.npz")
    images = in_range(expected["pixel_values"], MEAN, STD)
    result = export_bundle(CLIP_MOE / "clip_moe.pt", tmp_path / "moe.vmoe", heads=1)
    assert [profile.name for profile in result.plan.profiles] == ["c2-k2"]
    assert any("experts per token; assumed: 2" in note for note in result.plan.notes)
    for library in (True, False):
        features, expert, kept, weight, *_ = run(result, images, library=library)
        np.testing.assert_allclose(features, expected["image_embeds@float64"], rtol=0, atol=5e-5)
        assert kept.all()
        np.testing.assert_array_equal(expert, expected["router/block_1/experts"])
        np.testing.assert_allclose(weight, expected["router/block_1/weights"], rtol=0, atol=2e-5)


def test_clip_moe_takes_every_setting(tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    settings = [{"capacity": 0.5, "k": 1}, {"k": 2, "pool": True}, {"max_experts": 2}, {"merge": 2}]
    answers = {}
    for precision in ("fp32", "bf16", "int8", "int4"):
        path = export_bundle(CLIP_MOE / "clip_moe.pt", tmp_path / f"{precision}.vmoe", heads=1, precision=precision).path
        engine = Engine.load(path)
        answers[precision] = [engine(images, **setting) for setting in settings]
    for precision, most in (("bf16", 0.05), ("int8", 0.1), ("int4", 0.3)):
        for exact, found in zip(answers["fp32"], answers[precision], strict=True):
            assert np.abs(exact - found).mean() < most * np.abs(exact).mean(), precision


@pytest.mark.parametrize("lookalike", LOOKALIKES, ids=lambda lookalike: lookalike.name)
def test_a_file_that_only_looks_like_a_family_is_refused(lookalike: Lookalike, tmp_path: Path) -> None:
    folder = lookalike.write(tmp_path / "model")
    with pytest.raises(VmoeError) as error:
        export_bundle(folder, tmp_path / "model.vmoe")
    assert any(word in str(error.value) for word in lookalike.words.split()) and "\n" not in str(error.value)
    assert not isinstance(error.value, ExportError) and not (tmp_path / "model.vmoe").exists()
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["vit", "hf_deit", "dinov2", "dinov2_gated", "dinov3_gated"])
def test_a_state_dict_of_transformers_is_the_model_that_it_saves(name: str, tmp_path: Path) -> None:
    kind = getattr(transformers, families()[name].made_by)
    model = kind(kind.config_class.from_dict(families()[name].config))
    model.save_pretrained(tmp_path / "saved")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    saved = export_bundle(tmp_path / "saved", tmp_path / "saved.vmoe", validate=False)
    config = tmp_path / "saved" / "config.json"
    state = export_bundle(tmp_path / "state.pt", tmp_path / "state.vmoe", validate=False, config=config)
    assert (state.path / WEIGHTS_NAME).read_bytes() == (saved.path / WEIGHTS_NAME).read_bytes()


def test_what_no_file_says_is_asked_for(tmp_path: Path) -> None:
    folder = families()["timm_token"].write(tmp_path / "model")
    (folder / "config.json").unlink()
    given: dict[str, Any] = {}
    for name, value in (("activation", "gelu"), ("heads", 3), ("pooling", "token")):
        with pytest.raises(VmoeError, match=f"pass --architecture NAME, or --{name} .*--pooling"):
            export_bundle(folder, tmp_path / "model.vmoe", **given)
        given[name] = value
    result = export_bundle(folder, tmp_path / "model.vmoe", **given)
    assert any("the family's usual values are used: epsilon 1e-06" in note for note in result.plan.notes)
    with pytest.raises(VmoeError, match="omit --heads"):
        export_bundle(result.path, tmp_path / "again.vmoe", heads=3)


@pytest.mark.parametrize("name", ["dinov2", "hf_deit", "deit_distilled"])
def test_without_a_file_of_pictures_they_are_normalized_as_the_released_models_take_them(name: str, tmp_path: Path) -> None:
    folder = families()[name].write(tmp_path / "model")
    config = {key: value for key, value in families()[name].config.items() if key != "pretrained_cfg"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    notes = export_bundle(folder, tmp_path / "model.vmoe", validate=False).plan.notes
    assert any("with mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225" in note for note in notes)


def test_a_given_config_is_read_instead_of_that_beside_the_checkpoint(tmp_path: Path) -> None:
    folder = families()["clipmoe"].write(tmp_path / "model")
    (folder / "config.json").write_text("{")
    (tmp_path / "other.json").write_text('{"hidden_act": "gelu"}')
    plan = export_bundle(folder, tmp_path / "model.vmoe", config=tmp_path / "other.json", validate=False).plan
    assert plan.model.activation == "gelu_erf"


def test_a_processor_without_a_class_is_the_usual_one(tmp_path: Path) -> None:
    family = families()["dinov2"]
    named, folder = exported(family, tmp_path / "named"), family.write(tmp_path / "model")
    config = dict(family.preprocessor_config or {})
    assert config.pop("image_processor_type") and config.pop("resample")
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    unnamed = export_bundle(folder, tmp_path / "unnamed.vmoe", validate=False)
    assert unnamed.plan.preprocessing == named.plan.preprocessing


def test_probabilities_are_those_of_transformers(tmp_path: Path) -> None:
    family = families()["vit"]
    one = {name: tensor[:1] if name.startswith("classifier.") else tensor for name, tensor in family.tensors.items()}
    own = {name: value for name, value in family.config.items() if name not in ("id2label", "label2id")}
    several, alone = "multi_label_classification", "single_label_classification"
    for kind, tensors, options, expected in (
        (None, family.tensors, {}, "softmax"),
        (alone, family.tensors, {}, "softmax"),
        (several, family.tensors, {}, "sigmoid"),
        (several, family.tensors, {"probabilities": "softmax"}, "softmax"),
        ("regression", one, {}, "softmax"),
        (alone, one, {}, "sigmoid"),  # not softmax, which would always give 1 for a single logit
    ):
        folder = tmp_path / f"{kind}{len(options)}{tensors is one}"
        write_files(folder, own | {"problem_type": kind}, tensors)
        bundle = export_bundle(folder, folder.with_suffix(".vmoe"), validate=False, **options).path
        assert Engine.load(bundle).manifest.probabilities == expected
    features = export_bundle(folder, tmp_path / "features.vmoe", validate=False, output="features").plan
    assert features.options.probabilities is None


def test_names_that_are_given_replace_those_of_the_config(tmp_path: Path, vmoe: Vmoe) -> None:
    folder, names = families()["vit"].write(tmp_path / "model"), tmp_path / "names.txt"
    names.write_text("eins\nzwei\ndrei\nvier\nfünf\n", "utf-8-sig")  # starts with a byte order mark, as on Windows
    vmoe.run("export", folder, "--class-names", names, "-o", tmp_path / "x.vmoe", "--no-validate")
    assert Engine.load(tmp_path / "x.vmoe").class_names == ("eins", "zwei", "drei", "vier", "fünf")
    with pytest.raises(OptionError, match="0 class names, but the model has 5 outputs"):
        export_bundle(folder, tmp_path / "y.vmoe", class_names=[])


def test_the_label_names_of_timm_are_class_names(tmp_path: Path) -> None:
    family, names = families()["timm_token"], ["tench", "goldfish", "shark", "ray", "cock"]
    write_files(tmp_path / "model", {**family.config, "label_names": names}, family.tensors)
    bundle = export_bundle(tmp_path / "model", tmp_path / "x.vmoe", validate=False).path
    assert Engine.load(bundle).class_names == tuple(names)


def test_the_file_of_a_whole_processor_comes_first(tmp_path: Path) -> None:
    folder = families()["clip"].write(tmp_path / "model")
    pictures = {"image_processor_type": "CLIPImageProcessor", "crop_size": 32, "resample": 2}
    for size, whole, steps in (
        # older versions of transformers write the size as a single number, here 40
        (40, {}, "exif|pillow_bilinear_small(40)|central_crop(32)"),
        (50, {"image_processor": pictures | {"size": 36}}, "exif|pillow_bilinear_small(36)|central_crop(32)"),
    ):
        (folder / "preprocessor_config.json").write_text(json.dumps(pictures | {"size": size}))
        (folder / "processor_config.json").write_text(json.dumps(whole | {"processor_class": "CLIPProcessor"}))
        plan = export_bundle(folder, tmp_path / "model.vmoe", validate=False, force=True).plan
        assert str(plan.preprocessing) == steps


def test_only_a_crop_that_no_step_does_is_told(tmp_path: Path) -> None:
    family = families()["timm_wide"]
    for mode, is_told in (("squash", False), ("center", True)):
        folder = family.write(tmp_path / mode)
        pictures = {**family.config["pretrained_cfg"], "crop_mode": mode}
        (folder / "config.json").write_text(json.dumps({**family.config, "pretrained_cfg": pictures}))
        notes = export_bundle(folder, tmp_path / f"{mode}.vmoe", validate=False).plan.notes
        assert any("timm's crop is only supported for square images" in note for note in notes) == is_told


@pytest.mark.parametrize("name", ["vit", "clip", "dinov2", "siglip_vision", "hf_deit_distilled"])
def test_the_config_says_the_size_where_the_file_of_pictures_does_not(name: str, tmp_path: Path) -> None:
    family = families()[name]
    saved, folder = exported(family, tmp_path / "saved"), family.write(tmp_path / "model")
    config = {key: value for key, value in (family.preprocessor_config or {}).items() if "size" not in key}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    plan = export_bundle(folder, tmp_path / "model.vmoe", validate=False).plan
    # For DINOv2, transformers resizes the position embedding to the size of the pictures, and its image processor makes
    # pictures of 224 px.
    size = 224 if name == "dinov2" else 32
    assert (plan.model.image_size, plan.preprocessing.steps[-1].height) == ((size, size), size)
    assert any("resized" in note for note in plan.notes) == (saved.plan.model.image_size != (size, size))


def test_what_transformers_would_assume_is_told(tmp_path: Path) -> None:
    folder, said = families()["vit"].write(tmp_path / "model"), dict(families()["vit"].config)
    told = {"num_attention_heads": "heads 12", "hidden_act": "activation gelu", "layer_norm_eps": "epsilon 1e-12"}
    for key, note in told.items():
        (folder / "config.json").write_text(json.dumps({name: value for name, value in said.items() if name != key}))
        notes = export_bundle(folder, tmp_path / f"{key}.vmoe", validate=False).plan.notes
        assert f"no file sets these, so the family's usual values are used: {note}" in notes


def test_grey_pictures_are_those_of_three_equal_channels(tmp_path: Path) -> None:
    family, tensors = families()["vit"], families()["vit"].tensors
    name = next(name for name in tensors if "projection.weight" in name)
    write_files(tmp_path / "grey", family.config, tensors | {name: tensors[name].sum(axis=1, keepdims=True)})
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 1)).astype(np.float32)
    found = run(export_bundle(tmp_path / "grey", tmp_path / "grey.vmoe"), images)[0]
    np.testing.assert_allclose(found, run(exported(family, tmp_path), images.repeat(3, 3))[0], rtol=0, atol=5e-5)


def test_the_command_names_the_families_and_takes_a_folder(tmp_path: Path, vmoe: Vmoe) -> None:
    listed, _ = vmoe.run("export", "--families")
    assert len({*listed.splitlines()}) == 24 and "timm" in listed
    folder = families()["vit"].write(tmp_path / "model")
    (folder / "preprocessor_config.json").write_text('{"size": 56}')
    said = "".join(vmoe.run("export", folder, "-v", "-o", tmp_path / "vit.vmoe"))
    assert all(part in said for part in ("ViT (Hugging Face", "From the model's files", "resized from 4x4 to 7x7"))
    assert Engine.load(tmp_path / "vit.vmoe").manifest.class_names == ("apple", "bear", "cup", "door", "eel")
