"""Compile the content of a bundle's `manifest.json` from the export's plan and the results of validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vmoe_export.export_plan import ExportPlan
from vmoe_export.model.model_config import experts_entry
from vmoe_export.model.parameters import stored_tensors
from vmoe_export.validation.findings import Findings
from vmoe_export.weight_types.weight_type import stored_shape
from vmoe_runtime import __version__
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, FORMAT, FORMAT_VERSION, INLINED_GRAPH, MERGING_GRAPH


def manifest_of(plan: ExportPlan, tensorrt: Mapping[str, str], findings: Findings) -> dict[str, Any]:
    """Return the content of `manifest.json`, except its list of files.

    Args:
        plan: the plan of the export.
        tensorrt: the file name of each TensorRT graph, by profile name. For a dense ViT without profiles, the only key is
            "model". If there are no TensorRT graphs, the mapping is empty.
        findings: the results of validation.
    """
    model, checkpoint = plan.model, plan.checkpoint
    height, width = model.image_size
    names = plan.options.class_names
    stored = stored_tensors(plan.weight_shapes, plan.stored_precision)
    packed = {
        name: list(tensor.shape)
        for name, tensor in stored.items()
        if stored_shape(tensor.shape, tensor.dtype) != tensor.shape
    }
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "producer": {"name": "vmoe-export", "version": __version__},
        "source": {
            "name": checkpoint.source,
            "format": checkpoint.format,
            "sha256": checkpoint.sha256(),
        },
        "model": model.to_json(),
        "input": {
            "name": "image",
            "dtype": plan.input,
            "height": height,
            "width": width,
            "channels": model.channels,
        },
        "preprocessing": {"steps": str(plan.preprocessing)},
        **_outputs(plan),
        "class_names": None if names is None else list(names),
        **({"probabilities": plan.options.probabilities} if plan.options.probabilities and plan.output == "logits" else {}),
        "routing": _routing(plan),
        "precision": plan.stored_precision,
        **({"int4_shapes": packed} if packed else {}),
        "batch_multiple": plan.grouping.batch_multiple,
        **({"image_tokens": plan.rules.image_tokens} if plan.rules.image_tokens else {}),
        "profiles": [
            {name: value for name, value in profile.entry().items() if value is not None} for profile in plan.profiles
        ],
        "graphs": {
            "canonical": CANONICAL_GRAPH,
            "inlined": INLINED_GRAPH,
            **({"merging": MERGING_GRAPH} if any(profile.merge for profile in plan.profiles) else {}),
        },
        **({"tensorrt": {"precision": plan.tensorrt_precision, "graphs": dict(tensorrt)}} if tensorrt else {}),
        "flops_per_image": {
            "dense": plan.dense_flops,
            **{profile.name: plan.flops(profile) for profile in plan.profiles},
        },
        "validation": {
            "atol": findings.limits.difference,
            "relative_limit": findings.limits.relative,
            "comparisons": [asdict(comparison) for comparison in findings.comparisons],
            "distance_from_fp32": [asdict(distance) for distance in findings.distances],
            **({"tensorrt": [asdict(each) for each in findings.tensorrt_comparisons]} if tensorrt else {}),
        }
        if findings.limits
        else None,
    }


def _outputs(plan: ExportPlan) -> dict[str, Any]:
    answers = plan.exported.answers
    shape, (tokens, size) = answers[plan.output], (plan.model.num_tokens, plan.model.hidden_size)
    output = {"name": plan.output, "size": shape[-1], **({"tokens": tokens} if plan.output == "tokens" else {})}
    layers = {"layers": {"blocks": list(plan.exported.layers), "tokens": tokens, "size": size}}
    return {"output": output, **(layers if plan.exported.layers else {})}


def _routing(plan: ExportPlan) -> dict[str, Any] | None:
    rules = plan.rules
    if plan.model.moe is None:
        return None
    entry: dict[str, Any] = {
        "kind": rules.kind,
        **experts_entry(rules.experts),
        "layers": [f"encoderblock_{i}" for i in plan.model.moe.layers],
        "group": plan.grouping.name,
        "group_tokens": rules.group_tokens,
    }
    if rules.kind == "soft":
        return entry | {"slots_per_expert": rules.slots_per_expert}
    entry |= {"rounding": rules.rounding, "capacity_multiple_of": rules.capacity_multiple_of}
    return entry | ({"ensemble_size": rules.ensemble_size} if rules.ensemble_size > 1 else {})
