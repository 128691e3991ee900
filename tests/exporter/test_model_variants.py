"""Every kind of model in every precision, run in every runtime, against the independent numpy model in double precision."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import golden
import ml_dtypes
import numpy as np
import numpy_vmoe
import pytest
import safetensors.numpy
from variants import VARIANTS, Setting, Tensors, Variant

from vmoe_export import ExportOptions, open_checkpoint
from vmoe_export.export import ExportPlan, plan_export, write_bundle
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.parameters import graph_shape
from vmoe_export.model.position_embedding import resize_position_embedding
from vmoe_export.validation.reference_model import ReferenceModel
from vmoe_measure.comparison import relative_differences
from vmoe_runtime import Engine
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.capacity import compute_slots

RUNNERS = ("numpy", "canonical", "onnxruntime", "openvino")
BATCHES = (1, 3)
PRECISIONS = {"fp32": "float64", "bf16": "bf16", "int8": "int8", "bf16-experts": "float64", "int4": "int8"}
"""What the numpy model calls the numbers of each, those of experts left out."""
EXPORTS = [
    *itertools.product(("fp32", "bf16", "int8"), VARIANTS),
    ("bf16-experts", VARIANTS[6]),
    *(("int4", variant) for variant in VARIANTS if variant.moe),
]
DENSE: tuple[Setting | None, ...] = (None,)

Answer = tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]
"""Logits or features, and by MoE block the expert of each choice and whether it was kept."""


@dataclass(frozen=True)
class Exported:
    """A variant's checkpoint and its bundle."""

    variant: Variant
    parameters: Tensors
    path: Path
    plan: ExportPlan
    reference: ReferenceModel
    canonical: OnnxRuntimeBackend
    engines: dict[str, Engine]
    known: dict[tuple[int, Setting | None], numpy_vmoe.Result] = field(default_factory=dict)

    def expected(self, count: int, setting: Setting | None) -> numpy_vmoe.Result:
        """What the numpy model gives for the first images; computed once."""
        if (count, setting) not in self.known:
            self.known[count, setting] = self._computed(self.variant.images(count), setting)
        return self.known[count, setting]

    def _computed(self, images: np.ndarray, setting: Setting | None) -> numpy_vmoe.Result:
        variant = self.variant
        parameters = dict(self.parameters)
        embedding = parameters.get(numpy_vmoe.POSITION_EMBEDDING)
        if embedding is not None and embedding.shape[1] != variant.tokens:
            rows = variant.image_size[0] // variant.patch[0]
            parameters[numpy_vmoe.POSITION_EMBEDDING] = resize_position_embedding(
                embedding, (rows, rows), variant.classifier == "token"
            )
        settings = numpy_vmoe.Settings(
            variant.classifier,
            variant.position,
            variant.temperature,
            features=self.plan.output == "features",
            bf16=variant.options.get("dispatch_bf16", False),
            bf16_weights=self.plan.stored_precision == "bf16-experts",
            int4_weights=self.plan.stored_precision == "int4",
            numbers=PRECISIONS[self.plan.stored_precision],
        )
        if setting is not None:
            settings = replace(
                settings,
                group_tokens=variant.group_tokens or variant.tokens,
                k=setting.k,
                capacity=self.slots(setting),
                bpr=setting.bpr,
                pool=setting.pool,
                max_experts=setting.max_experts,
            )
        if images.dtype == np.uint8:
            images = images / 255 * 2 - 1
        return numpy_vmoe.forward(parameters, images, settings)

    def slots(self, setting: Setting) -> list[int]:
        variant = self.variant
        return [
            compute_slots(
                (variant.group_tokens or variant.tokens) * setting.k,
                experts,
                min(setting.capacity, experts),
                variant.options.get("rounding", "ceil"),
                variant.options.get("capacity_multiple_of", 1),
            )
            for experts in variant.experts_of.values()
        ]

    def run(self, runner: str, images: np.ndarray, setting: Setting | None) -> Answer:
        blocks = [f"encoderblock_{i}" for i in self.variant.moe]
        if engine := self.engines.get(runner):
            if setting is None:
                return engine(images), {}
            fields = setting._replace(max_experts=setting.max_experts or self.variant.experts)._asdict()
            logits, routing = engine.logits_and_routing(images, **fields)
            return logits, {block: (route.expert, route.kept) for block, route in routing.items()}
        feeds = {"image": images}
        if setting is not None:
            feeds["capacity"] = np.array(self.slots(setting), np.int64)
            feeds["k"] = np.array([setting.k], np.int64)
            feeds["bpr"] = np.array([setting.bpr], np.int64)
            feeds["pool"] = np.array([setting.pool], np.int64)
            feeds["max_experts"] = np.array([setting.max_experts or self.variant.experts], np.int64)
        if runner == "numpy":
            output, *routes = golden.run_numpy(self.reference, feeds)
            return output, dict(zip(blocks, zip(routes[::3], routes[1::3], strict=True), strict=True))
        names = [self.plan.output, *(f"{block}/{what}" for block in blocks for what in ("expert", "kept"))]
        output, *routes = self.canonical.run(feeds, names)
        return output, dict(zip(blocks, zip(routes[::2], routes[1::2], strict=True), strict=True))


def _as_used(name: str, tensors: Tensors) -> np.ndarray | None:
    """A stored tensor in the shape that graphs use."""
    if name in tensors and tensors[name].dtype == np.float16:
        return tensors[name]
    if name not in tensors or name.endswith("_scale"):
        return tensors[name].reshape(*tensors[name].shape[: "/Moe/" in name], -1) if name in tensors else None
    if tensors[name].dtype == np.uint8:  # two int4
        halves = np.stack([tensors[name] & 15, tensors[name] >> 4], axis=-1).astype(np.int8)
        return ((halves ^ 8) - 8).reshape(*tensors[name].shape[:2], -1).astype(ml_dtypes.int4)
    return tensors[name].reshape(graph_shape(name, tensors[name].shape))


@pytest.fixture(scope="module", params=EXPORTS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    variant: Variant
    precision, variant = request.param
    folder = tmp_path_factory.mktemp("variant")
    parameters = variant.parameters()
    safetensors.numpy.save_file(parameters, folder / "ckpt.safetensors")
    options = dict(variant.options)
    if variant.settings:
        ratio, k, bpr = variant.settings[0]
        options |= {"capacity": [ratio], "k": [k], "bpr": bpr}
    with open_checkpoint(folder / "ckpt.safetensors") as checkpoint:
        plan = plan_export(checkpoint, ExportOptions(config=variant.config, precision=precision, **options))
        result = write_bundle(plan, folder / "model.vmoe", validation=None)
    model = ExportedModel(plan.model, plan.grouping.tokens, plan.output, plan.input == "uint8", precision)
    tensors = safetensors.numpy.load_file(result.path / "weights.safetensors")
    return Exported(
        variant,
        parameters,
        result.path,
        plan,
        ReferenceModel(model, lambda name: _as_used(name, tensors)),
        OnnxRuntimeBackend(result.path / "model.onnx"),
        {name: Engine.load(result.path, backend=name, threads=1) for name in ("onnxruntime", "openvino")},
    )


@pytest.mark.parametrize("runner", RUNNERS)
def test_outputs_and_kept_pairs_are_those_of_the_numpy_model(exported: Exported, runner: str) -> None:
    variant = exported.variant
    short = exported.plan.stored_precision != "fp32"
    differences = []
    for groups in BATCHES:
        images = variant.images(groups * variant.batch_multiple)
        for setting in variant.every_setting or DENSE:
            expected = exported.expected(len(images), setting)
            output, routes = exported.run(runner, images, setting)
            assert list(routes) == list(expected.kept)
            for block, (expert, keeps) in routes.items():
                assert setting is not None
                kept = golden.kept_pairs(expert, keeps, expected.kept[block].shape[-1])
                np.testing.assert_array_equal(kept, expected.kept[block], err_msg=f"{block} at {setting}")
            differences.append(np.median(relative_differences(expected.output, output)))
            if short:
                continue
            bfloat16 = variant.options.get("dispatch_bf16", False)
            scale = max(1.0, float(np.abs(expected.output).max()))
            atol = (3e-3 if bfloat16 else 1e-5) * scale
            np.testing.assert_allclose(output, expected.output, rtol=0, atol=atol, err_msg=f"at {setting}")
    # The numpy model rounds the same values, computed in double precision. Few lie so close to the middle of two that
    # float32 rounds them to the other: most outputs see none of it.
    assert max(differences) <= 2e-2
    assert np.median(differences) <= 1e-5


def test_the_bundle_runs_its_profile_and_checks_its_batch(exported: Exported) -> None:
    variant = exported.variant
    engine = exported.engines["onnxruntime"]
    images = variant.images(variant.batch_multiple)
    first = next(iter(variant.every_setting), None)
    np.testing.assert_array_equal(engine(images), exported.run("onnxruntime", images, first)[0])
    assert engine.manifest.batch_multiple == variant.batch_multiple
    assert len(engine.profiles) == bool(variant.moe)
    assert engine.manifest.output == ("logits" if variant.classes and "output" not in variant.options else "features")


def test_settings_tell_apart_what_they_keep(exported: Exported) -> None:
    """Without this, a model whose router has one favourite, or drops nothing, would prove little."""
    variant = exported.variant
    images = 3 * variant.batch_multiple
    results = [exported.expected(images, setting) for setting in variant.every_setting or DENSE]
    assert np.abs(results[0].output - results[0].output[:1]).max() > 0.05
    for block in results[0].kept:
        kept = [result.kept[block].sum() for result in results]
        assert len(set(kept)) > 1
        assert min(kept) < images * variant.tokens
        favourites = results[0].gates[block].argmax(axis=-1)
        assert len(np.unique(favourites)) >= min(variant.experts, 2)
