"""Compare every kind of model in every precision with the numpy reference that validation uses.

The models run in torch and in every runtime.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import golden
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from plain_graph import plain_graph
from variants import VARIANTS, Setting, Tensors, Variant

from vmoe_export import ExportOptions, open_checkpoint
from vmoe_export.export import ExportPlan, plan_export, write_bundle
from vmoe_export.model.parameters import graph_shape
from vmoe_export.validation.reference_model import ReferenceModel
from vmoe_measure.comparison import relative_differences
from vmoe_runtime import Engine
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.capacity import compute_slots
from vmoe_torch import Vmoe, load_model

BATCHES = (1, 3)
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
    """The bundle of a model variant, and the runtimes that run it."""

    variant: Variant
    plan: ExportPlan
    reference: ReferenceModel
    network: Vmoe
    canonical: OnnxRuntimeBackend
    engines: dict[str, Engine]
    known: dict[tuple[int, Setting | None], Answer] = field(default_factory=dict)

    @property
    def runners(self) -> list[str]:
        """Names of the implementations to compare with the reference. Torch is included only if the bundle is in float32."""
        return ["canonical", *self.engines, *["torch"] * (self.plan.stored_precision == "fp32")]

    def expected(self, count: int, setting: Setting | None) -> Answer:
        """Return the reference's outputs for the first `count` images.

        They are computed only once for each count and setting.
        """
        if (count, setting) not in self.known:
            self.known[count, setting] = self.run("numpy", self.variant.images(count), setting)
        return self.known[count, setting]

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
            numbers = setting._replace(max_experts=setting.max_experts or self.variant.experts)._asdict()
            feeds |= {name: np.array([number], np.int64) for name, number in numbers.items()}
            feeds["capacity"] = np.array(self.slots(setting), np.int64)
        if runner == "numpy":
            output, *routes = golden.run_numpy(self.reference, feeds)
        elif runner == "torch":
            scaled = images / np.float32(255) * 2 - 1 if images.dtype == np.uint8 else images
            output, *routes = golden.run_torch(self.network, feeds | {"image": scaled})
        else:
            names = [f"{block}/{what}" for block in blocks for what in ("expert", "kept", "weight")]
            output, *routes = self.canonical.run(feeds, [self.plan.output, *names])
        return output, dict(zip(blocks, zip(routes[::3], routes[1::3], strict=True), strict=True))


def _as_used(name: str, tensors: Tensors) -> np.ndarray | None:
    """Return a stored tensor in the shape and type that the graphs use."""
    if name in tensors and tensors[name].dtype == np.float16:
        return tensors[name]
    if name not in tensors or name.endswith("_scale"):
        return tensors[name].reshape(*tensors[name].shape[: "/Moe/" in name], -1) if name in tensors else None
    if tensors[name].dtype == np.uint8:  # each byte contains two int4 values
        halves = np.stack([tensors[name] & 15, tensors[name] >> 4], axis=-1).astype(np.int8)
        return ((halves ^ 8) - 8).reshape(*tensors[name].shape[:2], -1).astype(ml_dtypes.int4)
    return tensors[name].reshape(graph_shape(name, tensors[name].shape))


@pytest.fixture(scope="module", params=EXPORTS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    variant: Variant
    precision, variant = request.param
    folder = tmp_path_factory.mktemp("variant")
    path, options = variant.write(folder), variant.export_options
    with open_checkpoint(path) as checkpoint:
        plan = plan_export(checkpoint, ExportOptions(precision=precision, **options))
        result = write_bundle(plan, folder / "model.vmoe", validation=None)
    options.pop("input", None)
    for name in options.keys() & {"capacity", "k"}:
        (options[name],) = options[name]
    tensors = safetensors.numpy.load_file(result.path / "weights.safetensors")
    return Exported(
        variant,
        plan,
        ReferenceModel(plan.exported, lambda name: _as_used(name, tensors)),
        load_model(path, **options),
        OnnxRuntimeBackend(plain_graph(result.path / "model.onnx")),
        {name: Engine.load(result.path, backend=name, threads=1) for name in ("onnxruntime", "openvino")},
    )


@pytest.mark.sample(4)
def test_outputs_and_kept_pairs_are_those_of_the_reference(exported: Exported) -> None:
    variant = exported.variant
    short = exported.plan.stored_precision != "fp32"
    for runner in exported.runners:
        differences = []
        for groups in BATCHES:
            images = variant.images(groups * variant.batch_multiple)
            for setting in variant.every_setting or DENSE:
                expected, layers = exported.expected(len(images), setting)
                output, routes = exported.run(runner, images, setting)
                for (block, route), experts in zip(routes.items(), variant.experts_of.values(), strict=True):
                    kept, official = (golden.kept_pairs(*found, experts) for found in (route, layers[block]))
                    np.testing.assert_array_equal(kept, official, err_msg=f"{block} at {setting} in {runner}")
                differences.append(np.median(relative_differences(expected, output)))
                if short:
                    continue
                scale = max(1.0, float(np.abs(expected).max()))
                atol = (3e-3 if variant.options.get("dispatch_bf16") else 1e-5) * scale
                np.testing.assert_allclose(output, expected, rtol=0, atol=atol, err_msg=f"{runner} at {setting}")
        # A few values lie almost exactly halfway between two representable numbers. If numbers are added in another order,
        # such a value may round differently. Most outputs don't depend on such a value.
        assert max(differences) <= 2e-2, runner
        assert np.median(differences) <= 1e-5, runner


@pytest.mark.sample(8)
def test_the_bundle_runs_its_profile_and_checks_its_batch(exported: Exported) -> None:
    variant = exported.variant
    engine = exported.engines["onnxruntime"]
    images = variant.images(variant.batch_multiple)
    first = next(iter(variant.every_setting), None)
    np.testing.assert_array_equal(engine(images), exported.run("onnxruntime", images, first)[0])
    assert engine.manifest.batch_multiple == variant.batch_multiple
    assert len(engine.profiles) == bool(variant.moe)
    assert engine.manifest.output == ("logits" if variant.classes and "output" not in variant.options else "features")


@pytest.mark.sample(8)
def test_settings_tell_apart_what_they_keep(exported: Exported) -> None:
    """Check that the models are useful for tests.

    Their routers must drop tokens, and their tokens must prefer different experts.
    """
    variant = exported.variant
    images = 3 * variant.batch_multiple
    results = [exported.expected(images, setting) for setting in variant.every_setting or DENSE]
    output, layers = results[0]
    assert np.abs(output - output[:1]).max() > 0.05
    for block, (expert, _) in layers.items():
        kept = [routes[block][1].sum() for _, routes in results]
        assert len(set(kept)) > 1
        assert min(kept) < images * variant.tokens
        assert len(np.unique(expert[..., 0])) >= min(variant.experts, 2)
