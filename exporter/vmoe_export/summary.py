"""What the user sees of an export: the model, its settings and where they come from, profiles, validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from vmoe_export.export import ExportResult
from vmoe_export.export_plan import ExportPlan
from vmoe_export.model.parameters import stored_tensors
from vmoe_export.model.routing_config import ExpertsChoice, RoutingConfig, Soft
from vmoe_export.precision import PRECISIONS
from vmoe_export.validation.limits import Limits
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES

_MUCH = 0.1  # of the requested ratio


def model_table(plan: ExportPlan, *, verbose: bool = False) -> Table:
    """What the model is, and which values were assumed or not followed."""
    model, moe = plan.model, plan.model.moe
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    head = f"features of size {model.feature_size}" if plan.output == "features" else f"{model.num_classes} classes"
    table.add_row(
        KIND_NAMES[moe.routing.kind] if moe else "Dense ViT",
        f"{model.num_layers} blocks, hidden size {model.hidden_size}, {model.num_heads} heads, MLP {model.mlp_dim}, "
        f"classifier '{model.classifier}', {head}",
    )
    if plan.preset:
        table.add_row("Preset", f"{plan.preset.name}: {plan.preset.description}")
    table.add_row(
        "Images",
        f"{_size(model.image_size)} px x {model.channels}, patches of {_size(model.patch_size)}, {model.num_tokens} tokens, "
        f"{plan.input}",
    )
    assumed = "" if plan.options.preprocess else " (assumed, as in the official configs; --preprocess changes it)"
    table.add_row("Pictures", f"{plan.preprocessing}{assumed}")
    if moe:
        table.add_row(
            "MoE layers", f"blocks {', '.join(map(str, moe.layers))}: {moe.num_experts} experts of size {moe.mlp_dim}"
        )
        if model.ensemble_size > 1:
            gives = "each member's logits" if plan.output == "members" else "the logarithm of their mean probability"
            table.add_row(
                "Ensemble",
                f"{model.ensemble_size} members of {moe.num_experts // model.ensemble_size} experts each; returns {gives}",
            )
        table.add_row(
            "Routing group",
            f"{plan.grouping.name}: {plan.grouping.tokens} tokens; batches in multiples of {plan.grouping.batch_multiple}",
        )
        table.add_row("Routing", f"{_routing(moe.routing)}; bfloat16 dispatcher: {'yes' if moe.dispatch_bf16 else 'no'}")
    table.add_row("Weights", _weights(plan))
    # The values of --capacity and --k are in the table of profiles.
    chosen = {"capacity_ratio": plan.options.capacity, "k": plan.options.k}
    for origin in ("config", "flag", "default", "inferred") if verbose else ("default",):
        fields = sorted(name for name, source in model.origins.items() if source == origin and not chosen.get(name))
        if fields:
            source = "From the preset" if origin == "config" and plan.preset else _ORIGINS[origin]
            table.add_row(source, ", ".join(f"{name} = {_value(plan, name)}" for name in fields))
    for text in plan.notes:
        table.add_row("Note", text)
    return table


def profile_table(plan: ExportPlan) -> Table:
    """One row per profile: requested and effective ratio, slots, FLOPs against the dense ViT of the same size."""
    experts = plan.rules.num_experts if plan.rules else 0
    pooled = any(profile.pool for profile in plan.profiles)
    limited = any((profile.max_experts or experts) < experts for profile in plan.profiles)
    return _table(
        None,
        [
            {
                "profile": profile.name,
                "capacity ratio": f"{profile.capacity_ratio:g}",
                "effective": f"{profile.effective_ratio:.4g}",
                "k": None if profile.k is None else str(profile.k),
                "BPR": None if profile.bpr is None else _yes(profile.bpr),
                "pool": _yes(bool(profile.pool)) if pooled else None,
                "max experts": str(profile.max_experts) if limited else None,
                "slots per expert": str(profile.capacity[0]),
                "GFLOP per image": f"{plan.flops(profile) / 1e9:.3g}",
                "of dense": f"{plan.flops(profile) / plan.dense_flops:.0%}",
            }
            for profile in plan.profiles
        ],
    )


def profile_notes(plan: ExportPlan) -> tuple[str, ...]:
    """One sentence for each kind of surprise: profiles that are the same, far from their ratio, or above a dense ViT."""
    notes = []
    by_setting: dict[object, list[Profile]] = {}
    for profile in plan.profiles:
        setting = (profile.capacity, profile.k, profile.bpr, profile.pool, profile.max_experts)
        by_setting.setdefault(setting, []).append(profile)
    for alike in by_setting.values():
        if len(alike) > 1:
            notes.append(f"{_names(alike)} are the same: each gives an expert {_slots(alike[0])} per group")
    far = [p for p in plan.profiles if abs(p.effective_ratio - p.capacity_ratio) > _MUCH * p.capacity_ratio]
    if far:
        told = ", ".join(f"{p.name} is {p.effective_ratio:.3g} with {_slots(p)}" for p in far)
        notes.append(f"slots are whole numbers, so an effective ratio is more than {_MUCH:.0%} off: {told}")
    above = [profile for profile in plan.profiles if plan.flops(profile) > plan.dense_flops]
    if above:
        verb = "costs" if len(above) == 1 else "cost"
        notes.append(f"{_names(above)} {verb} more than the dense ViT of the same size")
    return tuple(notes)


def validation_tables(result: ExportResult) -> Iterator[Table]:
    """What validation measured and what it accepts: one table for each kind of comparison, one row per graph or profile."""
    findings, output = result.findings, result.plan.output
    if findings.limits and (compared := result.comparisons):
        yield _table(
            f"ONNX Runtime against torch: difference of {output}, on {compared[0].images} random images",
            [
                {
                    "graph": each.graph,
                    "profile": each.profile,
                    **_differences(each.max_difference, each.relative_difference, findings.limits),
                    _agreement(findings.limits): f"{each.agreement:.2%}" if each.profile else None,
                }
                for each in compared
            ],
        )
    if findings.rounded_limits and (rounded := result.rounded):
        how = "run by ONNX Runtime" if rounded[0].how == "onnxruntime" else "emulated in float32"
        limits = findings.rounded_limits
        yield _table(
            f"TensorRT graphs in {result.plan.options.precision} against torch, {how}: difference of {output}, on "
            f"{rounded[0].images} random images",
            [
                {
                    "graph": each.graph,
                    **_differences(
                        each.max_difference if limits.difference is None else each.difference_alike,
                        each.relative_difference,
                        limits,
                    ),
                    _agreement(limits): f"{each.all_pairs:.2%}" if each.profile else None,
                    "by block": _by_block(each.agreement),
                }
                for each in rounded
            ],
        )
    if distances := result.distances:
        kind = "images" if findings.own_images else "random images"
        yield _table(
            f"{result.plan.stored_precision} against fp32: difference of {output}, on {distances[0].images} {kind}",
            [
                {
                    "profile": each.profile,
                    f"median, relative (at most {findings.distance_limit:.0%})": f"{each.relative_difference:.2%}",
                    "largest": f"{each.max_difference:.1e}",
                    "same top-1": _share(each.same_top1),
                    "top-1": _share(each.top1),
                    "top-1 in fp32": _share(each.top1_float32),
                    "kept pairs alike, by block": _by_block(each.agreement),
                }
                for each in distances
            ],
        )


def _differences(largest: float, relative: float, limits: Limits) -> dict[str, str]:
    most = "" if limits.difference is None else f" (at most {limits.difference:g})"
    cells = {f"largest{most}": f"{largest:.1e}"}
    return (
        cells
        if limits.relative is None
        else cells | {f"median, relative (at most {limits.relative:.0%})": f"{relative:.2%}"}
    )


def _agreement(limits: Limits) -> str:
    return f"kept pairs alike (at least {limits.agreement:.1%})"


def _table(title: str | None, rows: Sequence[Mapping[str, str | None]]) -> Table:
    """A table of such rows, without the columns that are empty in all of them."""
    table = Table(title=title, title_justify="left")
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    for name in columns:
        table.add_column(
            name,
            no_wrap=name in ("graph", "profile"),
            justify="left" if name in ("graph", "profile") or "block" in name else "right",
        )
    for row in rows:
        table.add_row(*(row[name] or "-" for name in columns))
    return table


def result_json(result: ExportResult, *, written: bool) -> dict[str, Any]:
    """The same as JSON."""
    plan = result.plan
    findings = result.findings
    return {
        "bundle": str(result.path),
        "written": written,
        "preset": plan.options.preset,
        "model": plan.model.to_json(),
        "group": asdict(plan.grouping),
        "output": plan.output,
        "preprocessing": str(plan.preprocessing),
        "precision": plan.options.precision,
        "weight_bytes": plan.weight_bytes,
        "dense_flops_per_image": plan.dense_flops,
        "profiles": [{**asdict(profile), "flops_per_image": plan.flops(profile)} for profile in plan.profiles],
        "notes": [*plan.notes, *profile_notes(plan)],
        "validation": [asdict(comparison) for comparison in result.comparisons],
        "limits": findings.limits and asdict(findings.limits),
        "distance_from_fp32": [asdict(distance) for distance in result.distances],
        "distance_limit": findings.distance_limit,
        "tensorrt": {
            "graphs": dict(result.tensorrt),
            "limits": findings.rounded_limits and asdict(findings.rounded_limits),
            "validation": [asdict(comparison) for comparison in result.rounded],
        }
        if plan.options.tensorrt
        else None,
    }


def _names(profiles: Sequence[Profile]) -> str:
    *first, last = [profile.name for profile in profiles]
    return f"{', '.join(first)} and {last}" if first else last


def _slots(profile: Profile) -> str:
    slots = profile.capacity[0]
    return f"{slots} slot{'s' if slots > 1 else ''}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _routing(routing: RoutingConfig) -> str:
    if isinstance(routing, Soft):
        return f"Soft MoE, {routing.slots_per_expert} slots per expert"
    kind = "experts choice" if isinstance(routing, ExpertsChoice) else "top-K"
    return f"{kind}, slots rounded by {routing.rounding} to a multiple of {routing.capacity_multiple_of}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.2%}"


def _by_block(agreement: Mapping[str, float]) -> str:
    return ", ".join(f"{name.rpartition('_')[2]}: {share:.1%}" for name, share in agreement.items()) or "-"


_ORIGINS = {"config": "From the config", "flag": "From flags", "default": "By default", "inferred": "From the tensors"}


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


def _size(pixels: tuple[int, int]) -> str:
    return f"{pixels[0]}x{pixels[1]}"
