"""Show an export to the user: the model, its settings and their origins, its profiles, and the results of validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from vmoe_export.export import ExportResult
from vmoe_export.export_plan import ExportPlan
from vmoe_export.model.model_config import ExpertsChoice, RoutingConfig, Soft, pixels
from vmoe_export.model.parameters import stored_tensors
from vmoe_export.precision import PRECISIONS
from vmoe_export.validation.findings import Comparison
from vmoe_export.validation.limits import Limits
from vmoe_runtime.profiles import Profile, by_layer, slots_range
from vmoe_runtime.routing_kinds import KIND_NAMES

_MUCH = 0.1  # show a note if the effective and the requested capacity ratio differ by more than this fraction


def model_table(plan: ExportPlan, *, verbose: bool = False) -> Table:
    """Return a table that describes the model and lists values that were assumed or ignored."""
    model, moe = plan.model, plan.model.moe
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    tokens = f"{model.num_tokens} tokens of size {model.hidden_size}"
    heads = {"features": f"features of size {model.feature_size}", "tokens": f"returns {tokens}"}
    head = heads.get(plan.output, f"{model.num_classes} classes")
    if model.normalize:
        head = f"normalized {head}" if plan.output == "features" else f"normalized features, {head}"
    table.add_row(
        KIND_NAMES[moe.routing.kind] if moe else "Dense ViT",
        f"{model.num_layers} blocks, hidden size {model.hidden_size}, {model.num_heads} heads, MLP {model.mlp_dim}, "
        f"classifier '{model.classifier}', {head}",
    )
    if layers := [name for name in plan.exported.answers if name != plan.output]:
        table.add_row("Layers", f"{', '.join(layers)}: {tokens} each")
    if plan.preset:
        table.add_row("Preset", f"{plan.preset.name}: {plan.preset.description}")
    table.add_row(
        "Images",
        f"{pixels(model.image_size)} px x {model.channels}, patches of {pixels(model.patch_size)}, "
        f"{model.num_tokens} tokens, {plan.input}",
    )
    assumed = "" if plan.options.preprocess else " (assumed, as in the official configs; --preprocess changes it)"
    table.add_row("Pictures", f"{plan.preprocessing}{assumed}")
    if moe:
        table.add_row(
            "MoE layers", f"blocks {', '.join(map(str, moe.layers))}: {by_layer(moe.experts)} experts of size {moe.mlp_dim}"
        )
        if model.ensemble_size > 1:
            own = by_layer([experts // model.ensemble_size for experts in moe.experts])
            gives = "each member's logits" if plan.output == "members" else "the logarithm of their mean probability"
            table.add_row(
                "Ensemble",
                f"{model.ensemble_size} members of {own} experts each; returns {gives}",
            )
        table.add_row(
            "Routing group",
            f"{plan.grouping.name}: {plan.grouping.tokens} tokens; batches in multiples of {plan.grouping.batch_multiple}",
        )
        table.add_row("Routing", f"{_routing(moe.routing)}; bfloat16 dispatcher: {'yes' if moe.dispatch_bf16 else 'no'}")
    table.add_row("Weights", _weights(plan))
    # The config is a mapping if it comes from a bundle or from the files of another library's model.
    given = "preset" if plan.preset else "model's files" if isinstance(plan.options.config, dict) else "config"
    origins = {"config": f"From the {given}", **_ORIGINS}
    # Leave out the values of --capacity and --k, because the table of profiles shows them.
    chosen = {"capacity_ratio": plan.options.capacity, "k": plan.options.k}
    for origin in ("config", "flag", "default", "inferred") if verbose else ("default",):
        fields = sorted(name for name, source in model.origins.items() if source == origin and not chosen.get(name))
        if fields:
            table.add_row(origins[origin], ", ".join(f"{name} = {_value(plan, name)}" for name in fields))
    for text in plan.notes:
        table.add_row("Note", text)
    return table


def profile_table(plan: ExportPlan) -> Table:
    """Return a table with one row per profile. It shows capacity ratios, slots and FLOPs.

    Each row has the requested and the effective capacity ratio. FLOPs are also given relative to the dense ViT of the
    same size. Other settings of a profile are part of its name.
    """
    rows = [
        {
            "profile": profile.name,
            "capacity ratio": profile.capacity_ratio and f"{profile.capacity_ratio:g}",
            "effective": profile.effective_ratio and f"{profile.effective_ratio:.4g}",
            "slots per expert": slots_range(profile.slots) if profile.slots else None,
            "GFLOP per image": f"{plan.flops(profile) / 1e9:.3g}",
            "of dense": f"{plan.flops(profile) / plan.dense_flops:.0%}",
        }
        for profile in plan.profiles
    ]
    columns = [name for name, value in rows[0].items() if value is not None]
    aligned = (Column(name, justify="left" if name == "profile" else "right", no_wrap=name == "profile") for name in columns)
    table = Table(*aligned, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns))
    return table


def profile_notes(plan: ExportPlan) -> tuple[str, ...]:
    """Return notes on profiles that may surprise a user.

    There is a note on a profile in three cases:

    - It has the same effect as another profile.
    - Its effective capacity ratio is far from the requested ratio.
    - It costs more than the dense ViT.
    """
    notes = []
    by_setting: dict[object, list[Profile]] = {}
    for profile in plan.profiles:
        by_setting.setdefault(profile.effect, []).append(profile)
    for alike in by_setting.values():
        if len(alike) > 1:
            notes.append(f"{_names(alike)} are the same: each gives an expert {_slots(alike[0])} per group")
    ratios = [(p, p.capacity_ratio or 0.0, p.effective_ratio or 0.0) for p in plan.profiles]
    far = [(p, effective) for p, ratio, effective in ratios if abs(effective - ratio) > _MUCH * ratio]
    if far:
        told = ", ".join(f"{p.name} is {effective:.3g} with {_slots(p)}" for p, effective in far)
        notes.append(f"slots are whole numbers, so an effective ratio is more than {_MUCH:.0%} off: {told}")
    above = [profile for profile in plan.profiles if plan.flops(profile) > plan.dense_flops]
    if above:
        verb = "costs" if len(above) == 1 else "cost"
        notes.append(f"{_names(above)} {verb} more than the dense ViT of the same size")
    return tuple(notes)


def validation_lines(result: ExportResult) -> Iterator[str]:
    """Yield lines that summarize what validation measured, with the limits.

    The output of `result_json` has the measurements for each graph and profile.
    """
    output = result.plan.output
    if result.limits:
        yield _compared("ONNX Runtime against the reference", output, result.comparisons, result.limits)
    if result.tensorrt_limits:
        how = "run by ONNX Runtime" if result.plan.tensorrt_precision == "fp32" else "emulated in float32"
        what = f"TensorRT graphs in {result.plan.options.precision}, {how}"
        yield _compared(what, output, result.tensorrt_comparisons, result.tensorrt_limits)
    for each in result.distances:
        where = f" at {each.profile}" if each.profile else ""
        random = "random images (photos usually differ more; --images measures yours)"
        images = f"{each.images} {'images' if result.own_images else random}"
        top1 = "" if each.same_top1 is None else f", the same class on {each.same_top1:.2%}"
        if each.top1 is not None and each.top1_float32 is not None:
            top1 += f", top-1 accuracy {each.top1:.2%} (fp32: {each.top1_float32:.2%})"
        yield (
            f"{result.plan.stored_precision} against fp32{where}, on {images}: a part is at most {each.part_difference:.2%} "
            f"off (limit {result.distance_limit:.0%}), {output} are typically {each.relative_difference:.2%} off{top1}"
        )


def _compared(what: str, output: str, comparisons: Sequence[Comparison], limits: Limits) -> str:
    relative = max(each.relative_difference for each in comparisons)
    most = f"{relative:.1e} off (limit {limits.relative:.1e})"
    if limits.difference is not None:
        most = f"{max(each.max_difference for each in comparisons):.1e} off (limit {limits.difference:g})"
    whole = f"from end to end, {output} are typically {max(each.output_difference for each in comparisons):.1e} off"
    if comparisons[0].profile:
        agreement = min(each.agreement for each in comparisons)
        most += f" and routes {agreement:.2%} of the pairs alike (limit {limits.agreement:.0%})"
        alike = min(each.images_alike for each in comparisons)
        whole += f", and {alike} of {comparisons[0].images} images are routed alike (not judged)"
    return f"{what}: each part is at most {most}; {whole}"


def result_json(result: ExportResult, *, written: bool) -> dict[str, Any]:
    """Return the plan and the results of an export as JSON."""
    plan = result.plan
    return {
        "bundle": str(result.path),
        "written": written,
        "preset": plan.options.preset,
        "model": plan.model.to_json(),
        "group": asdict(plan.grouping),
        "output": plan.output,
        "layers": list(plan.exported.layers),
        "preprocessing": str(plan.preprocessing),
        "precision": plan.options.precision,
        "weight_bytes": plan.weight_bytes,
        "dense_flops_per_image": plan.dense_flops,
        "profiles": [{**profile.entry(), "flops_per_image": plan.flops(profile)} for profile in plan.profiles],
        "notes": [*plan.notes, *profile_notes(plan)],
        "validation": [asdict(comparison) for comparison in result.comparisons],
        "limits": result.limits and asdict(result.limits),
        "distance_from_fp32": [asdict(distance) for distance in result.distances],
        "distance_limit": result.distance_limit,
        "tensorrt": {
            "graphs": dict(result.tensorrt),
            "limits": result.tensorrt_limits and asdict(result.tensorrt_limits),
            "validation": [asdict(comparison) for comparison in result.tensorrt_comparisons],
        }
        if plan.options.tensorrt
        else None,
    }


def _names(profiles: Sequence[Profile]) -> str:
    *first, last = [profile.name for profile in profiles]
    return f"{', '.join(first)} and {last}" if first else last


def _slots(profile: Profile) -> str:
    slots = slots_range(profile.slots)
    return f"{slots} slot{'' if slots == '1' else 's'}"


def _routing(routing: RoutingConfig) -> str:
    if isinstance(routing, Soft):
        return f"Soft MoE, {routing.slots_per_expert} slots per expert"
    kind = "expert choice" if isinstance(routing, ExpertsChoice) else "top-K"
    return f"{kind}, slots rounded by {routing.rounding} to a multiple of {routing.capacity_multiple_of}"


_ORIGINS = {"flag": "From flags", "default": "By default", "inferred": "From the tensors"}


def _value(plan: ExportPlan, field: str) -> str:
    model = plan.model
    value = next(
        getattr(part, field) for part in (model, model.moe, model.moe and model.moe.routing) if hasattr(part, field)
    )
    return "x".join(map(str, value)) if field.endswith("_size") and isinstance(value, tuple) else str(value)


def _weights(plan: ExportPlan) -> str:
    stored = f"{plan.weight_bytes / 1e6:,.1f} MB"
    if plan.stored_precision == "fp32":
        return f"float32, {stored}"
    whole = sum(tensor.nbytes for tensor in stored_tensors(plan.weight_shapes, "fp32").values())
    return f"{PRECISIONS[plan.stored_precision].words}, {stored} (all in float32: {whole / 1e6:,.1f} MB)"
