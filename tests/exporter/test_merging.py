"""Tests for merged tokens in every runtime.

They use recorded cases of the official MNIST model, and models of every kind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_graph import plain_graph
from variants import VARIANTS, Variant

from vmoe_export import ExportOptions, export_bundle, open_checkpoint
from vmoe_export.errors import OptionError
from vmoe_export.export import plan_export, write_bundle
from vmoe_export.export_cost import ROWS_AT_ONCE
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.validation.options import ValidationOptions
from vmoe_export.validation.reference_model import ReferenceModel, Stream
from vmoe_export.validation.reference_weights import official_weights
from vmoe_runtime import Engine
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.errors import RoutingError
from vmoe_runtime.installation import CUDA_OP_LIBRARY, find_native
from vmoe_runtime.routing import Routing, layer_outputs, layer_routings
from vmoe_torch import load_model

ROOT = Path(__file__).parents[2]
RECORDED = np.load(ROOT / "tests/data/merge/mnist.npz")
MNIST = ROOT / "samples/mnist"
IMAGES = 64
SURE = 1e-4
"""If similarities differ by less, another order of sums may merge other tokens."""
RUNNERS = ("onnxruntime", "standard-ops", "cuda-ops", "openvino", "numpy", "torch", "tensorrt")

Answer = tuple[np.ndarray, dict[str, Routing]]
Run = Callable[[np.ndarray, dict[str, Any]], Answer]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("merging") / "mnist.vmoe"
    with open_checkpoint(MNIST / "vmoe_mnist") as checkpoint:
        options = ExportOptions(capacity=[0.3], k=[1], merge=8, config=MNIST / "config.json")
        return write_bundle(plan_export(checkpoint, options), target, validation=ValidationOptions()).path


@pytest.fixture(scope="module")
def run_of(bundle: Path) -> Callable[[str], Run]:
    manifest = Engine.load(bundle).manifest
    names = ["expert", "kept", "weight", "token"]
    outputs = [f"{layer}/{name}" for layer in manifest.moe_layers for name in names]

    def graph(name: str, library: Path | None = None) -> Run:
        backend = OnnxRuntimeBackend(plain_graph(bundle / name), library=library, threads=1, description=name)

        def run(images: np.ndarray, fields: dict[str, Any]) -> Answer:
            profile = manifest.rules.profile(**fields)
            logits, *values = backend.run({"image": images, **profile.inputs}, ["logits", *outputs])
            return logits, layer_routings(manifest, profile, names, values)

        return run

    def numpy_reference() -> Run:
        checkpoint = open_checkpoint(MNIST / "vmoe_mnist")
        plan = plan_export(checkpoint, ExportOptions(config=MNIST / "config.json"))
        model = ExportedModel(plan.model, plan.grouping)
        reference = ReferenceModel(model, official_weights(checkpoint, plan.model, plan.weight_shapes))

        def run(images: np.ndarray, fields: dict[str, Any]) -> Answer:
            profile = manifest.rules.profile(**fields)
            assert len(images) > ROWS_AT_ONCE  # needs several steps
            stream, routes = Stream(images), list[np.ndarray]()
            for part in model.parts:
                whole, layers = reference.run(part, stream, [profile])
                stream = reference.merge(whole, profile)
                routes += [value for layer in layers for value in layer]
            return stream.x, layer_routings(manifest, profile, names, routes)

        return run

    def torch_module() -> Run:
        module = load_model(MNIST / "vmoe_mnist", MNIST / "config.json").eval()

        def run(images: np.ndarray, fields: dict[str, Any]) -> Answer:
            with torch.inference_mode():
                logits, routes = module.logits_and_routing(torch.from_numpy(images), **fields)
            unmoved = torch.arange(50).expand(len(images), -1)
            values = [
                layer.get(name, unmoved).numpy().astype(np.int32 if name == "token" else None)
                for layer in routes.values()
                for name in names
            ]
            return logits.numpy(), layer_routings(manifest, None, names, values)

        return run

    def tensorrt_graph() -> Run:
        folder = bundle.with_name("tensorrt")

        def run(images: np.ndarray, fields: dict[str, Any]) -> Answer:
            ratio, k, bpr, _, merge = fields.values()
            config = MNIST / "config.json"
            options = ExportOptions(capacity=[ratio], k=[k], bpr=bpr, merge=merge, config=config, tensorrt=True)
            (profile,) = export_bundle(MNIST / "vmoe_mnist", folder, options, validate=False, force=True).plan.profiles
            own = layer_outputs(manifest, fixed=profile)
            asked = [f"{layer}/{output}" for layer in manifest.moe_layers for output in own]
            graph = OnnxRuntimeBackend(plain_graph(folder / f"{profile.name}.tensorrt.onnx"))
            logits, *values = graph.run({"image": images}, ["logits", *asked])
            return logits, layer_routings(manifest, profile, list(own), values)

        return run

    def engine(backend: str) -> Run:
        loaded = Engine.load(bundle, backend=backend, threads=1)
        return lambda images, fields: loaded.logits_and_routing(images, **fields)

    others = {
        "standard-ops": lambda: graph("model.merging.onnx"),
        "cuda-ops": lambda: graph("model.onnx", find_native("lib", CUDA_OP_LIBRARY)),
        "numpy": numpy_reference,
        "torch": torch_module,
        "tensorrt": tensorrt_graph,
    }
    return lambda name: others[name]() if name in others else engine(name)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", RUNNERS)
def test_the_recorded_cases(name: str, run_of: Callable[[str], Run], mnist_images: dict[str, np.ndarray]) -> None:
    pixels, run = mnist_images["images"][:IMAGES], run_of(name)
    images = (pixels[..., None] / np.float32(127.5) - 1).astype(np.float32)
    for i, (merge, k, ratio, bpr, pool) in enumerate(RECORDED["settings"]):
        fields = {"capacity": float(ratio), "k": int(k), "bpr": bool(bpr), "pool": bool(pool), "merge": int(merge)}
        if name == "tensorrt" and (pool or not merge):
            continue
        logits, routes = run(images, fields)
        sure = RECORDED[f"{i}/gap"] > SURE
        assert sure.sum() >= 50
        alike = sure.copy()
        for layer, route in routes.items():
            recorded = f"{i}/{layer.replace('encoderblock_', 'block')}"
            assert route.token is not None and route.kept is not None and route.expert is not None
            np.testing.assert_array_equal(route.token[sure], RECORDED[f"{recorded}/token"][sure])
            same = route.kept == RECORDED[f"{recorded}/kept"]
            same &= (route.expert == RECORDED[f"{recorded}/expert"]) | (route.expert < 0)  # -1 with TensorRT
            alike &= same.all(axis=(1, 2))
        assert alike.sum() >= sure.sum() - 1  # a near-tie of gates
        np.testing.assert_allclose(logits[alike], RECORDED[f"{i}/logits"][alike], rtol=0, atol=1e-4)


def test_a_merged_patch_goes_where_its_token_goes(bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    with Engine.load(bundle) as engine:
        for route in engine.routing(mnist_images["images"][:4], merge=8).values():
            assert route.token is not None and route.kept is not None
            kept = route.kept.any(axis=2)
            expected = np.stack([kept[i][route.token[i][1:]] for i in range(4)]).reshape(4, 7, 7)
            np.testing.assert_array_equal(route.patch_mask(), expected)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_bits_depend_on_no_neighbour_and_no_thread(
    bundle: Path, backend: str, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:6]
    with Engine.load(bundle, backend=backend, threads=2) as two, Engine.load(bundle, backend=backend, threads=1) as one:
        np.testing.assert_array_equal(two(images), np.concatenate([one(images[i : i + 1]) for i in range(6)]))


@pytest.mark.sample(3)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_models_of_every_kind_merge_alike_in_every_runtime(tmp_path: Path, variant: Variant, precision: Any) -> None:
    with open_checkpoint(variant.write(tmp_path)) as checkpoint:
        choices = ExportOptions(precision=precision, merge=2, tensorrt=precision != "int8", **variant.export_options)
        if variant.group_tokens and variant.group_tokens % variant.tokens:
            with pytest.raises((OptionError, RoutingError), match="merged in groups that cut an image"):
                plan_export(checkpoint, choices)
            return
        # The export validates all graphs: it compares them with the reference, part by part.
        path = write_bundle(plan_export(checkpoint, choices), tmp_path / "b.vmoe", validation=ValidationOptions()).path
    images = variant.images(3 * variant.batch_multiple)
    answers = []
    for backend in ("onnxruntime", "openvino"):
        with Engine.load(path, backend=backend, threads=1) as engine:
            answers.append(engine.logits_and_routing(images))
            unmerged = engine(images, merge=0)
            assert unmerged.shape == answers[-1][0].shape and not np.array_equal(unmerged, answers[-1][0])
    (ours, own), (theirs, other) = answers
    alike = np.ones(len(images), bool)
    for layer, route in own.items():
        assert route.token is not None and other[layer].token is not None
        assert route.token.shape == (len(images), variant.tokens) and route.token.max() < variant.tokens - 2
        alike &= (route.token == other[layer].token).all(axis=1)
    if precision == "fp32" and variant.batch_multiple == 1:
        assert alike.any()
        np.testing.assert_allclose(ours[alike], theirs[alike], rtol=0, atol=5e-3 * max(1.0, float(np.abs(ours).max())))


def test_what_can_not_be_merged_is_refused(bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    with Engine.load(bundle) as engine:
        for merge, words in ((-1, "between 0 and 65,536"), (1.5, "whole number"), (70_000, "between 0 and")):
            with pytest.raises(RoutingError, match=words):
                engine(mnist_images["images"][:1], merge=merge)  # type: ignore[arg-type]


def test_on_standard_ops_a_bundle_without_the_graph_says_so(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> None:
    with open_checkpoint(MNIST / "vmoe_mnist") as checkpoint:
        plan = plan_export(checkpoint, ExportOptions(config=MNIST / "config.json"))
        path = write_bundle(plan, tmp_path / "b.vmoe", validation=None).path
    with Engine.load(path, backend="openvino") as engine, pytest.raises(RoutingError, match="export it again with --merge"):
        engine(mnist_images["images"][:1], merge=3)
