"""Check models whose last block computes only the class token.

Their results must have the same bits as if the block computed all tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cpu_paths import need_op_library
from variants import VARIANTS, Variant

from vmoe_export import export_bundle
from vmoe_export.model.exported_model import ExportedModel
from vmoe_runtime import Engine

need_op_library()

_LAST_TWO, _LAST_OF_TOKEN, _DENSE = VARIANTS[0], VARIANTS[5], VARIANTS[9]
MODELS = {
    "all blocks": _LAST_TWO,
    "bfloat16 dispatcher, groups of a batch": VARIANTS[3],
    "qk-norm, groups of two images": VARIANTS[8],
    "5 experts in the last block": VARIANTS[11],
    "groups that cut images": replace(VARIANTS[10], moe=(1,), qk_norm=False),
    "expert choice": replace(_LAST_OF_TOKEN, options={**_LAST_OF_TOKEN.options, "router": "experts-choice"}),
    "ensemble": replace(_LAST_OF_TOKEN, classes=7, options={**_LAST_OF_TOKEN.options, "ensemble_size": 2}),
    "the last block is dense": replace(_LAST_TWO, moe=(0,)),
    "the last block is dense, qk-norm": VARIANTS[10],
    "the last block is dense, ensemble": replace(
        _LAST_OF_TOKEN, moe=(0,), classes=7, options={**_LAST_OF_TOKEN.options, "ensemble_size": 2}
    ),
    "dense": _DENSE,
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_answers_have_the_bits_of_a_model_that_computes_all_tokens(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = MODELS[name]
    alone, every = _export(variant, precision, tmp_path / "alone.vmoe"), tmp_path / "every.vmoe"
    with monkeypatch.context() as patched:
        patched.setattr(ExportedModel, "class_token_parts", ())
        _export(variant, precision, every)
    graphs = [onnx.load(path / "model.onnx", load_external_data=False).graph for path in (alone, every)]
    assert [node.op_type for node in graphs[0].node] != [node.op_type for node in graphs[1].node]
    # the graph must state the shapes of the blocks' outputs; otherwise, ONNX Runtime would compute the head differently
    for graph in graphs:
        blocks = {node.output[0] for node in graph.node if node.op_type in ("VmoeExpertBlock", "VmoeMlpBlock")}
        assert blocks <= {value.name for value in graph.value_info}
    images = variant.images(4 * variant.batch_multiple)
    settings = [
        {"capacity": c, **({} if "router" in variant.options else {"k": k, "bpr": bpr})} for c, k, bpr in variant.settings
    ]
    with Engine.load(alone, backend="onnxruntime") as one, Engine.load(every, backend="onnxruntime") as other:
        for setting in settings or [{}]:
            np.testing.assert_array_equal(one(images, **setting), other(images, **setting))
            routings = (engine.routing(images, **setting).values() for engine in (one, other))
            for found, expected in zip(*routings, strict=True):
                for output in ("expert", "kept", "weight"):
                    np.testing.assert_array_equal(getattr(found, output), getattr(expected, output))


def _export(variant: Variant, precision: str, path: Path) -> Path:
    """Export a bundle with validation. The validation compares its graphs with the reference, part by part."""
    options = variant.export_options
    if "router" in options:
        del options["k"], options["bpr"]
    return export_bundle(variant.write(path.parent), path, precision=precision, **options).path
