"""What the user sees of an export: the model, its settings and where they come from, profiles, validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from vmoe_export.export import ExportResult
from vmoe_export.export_plan import ExportPlan
from vmoe_export.model.parameters import stored_tensors
from vmoe_export.model.routing_config import ExpertsChoice, RoutingConfig, Soft
from vmoe_export.precision import PRECISIONS
from vmoe_export.profile_notes import profile_notes
from vmoe_export.validation.limits import Limits
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES


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
    assumed = "" if plan.options.preprocess else " (assumed, as in the official configs; --preprocess says otherwise)"
    table.add_row("Pictures", f"{plan.preprocessing}{assumed}")
    if moe:
        table.add_row(
            "MoE layers", f"blocks {', '.join(map(str, moe.layers))}: {moe.num_experts} experts of size {moe.mlp_dim}"
        )
        if model.ensemble_size > 1:
            gives = "each member's logits" if plan.output == "members" else "the logarithm of their mean probability"
            table.add_row(
                "Ensemble",
                f"{model.ensemble_size} members of {moe.num_experts // model.ensemble_size} experts each; puts out {gives}",
            )
        table.add_row(
            "Routing group",
            f"{plan.grouping.name}: {plan.grouping.tokens} tokens; batches in multiples of {plan.grouping.batch_multiple}",
        )
        table.add_row("Routing", f"{_routing(moe.routing)}; bfloat16 dispatcher: {'yes' if moe.dispatch_bf16 else 'no'}")
    table.add_row("Weights", _weights(plan))
    # What --capacity and --k say stands in the table of profiles.
    said = {"capacity_ratio": plan.options.capacity, "k": plan.options.k}
    for origin in ("config", "flag", "default", "inferred") if verbose else ("default",):
        fields = sorted(name for name, source in model.origins.items() if source == origin and not said.get(name))
        if fields:
            source = "From the preset" if origin == "config" and plan.preset else _ORIGINS[origin]
            table.add_row(source, ", ".join(f"{name} = {_value(plan, name)}" for name in fields))
    for text in plan.notes:
        table.add_row("Note", text)
    return table


def profile_table(plan: ExportPlan) -> Table:
    """One row per profile: requested and effective ratio, places, FLOPs against the dense ViT of the same size."""
    table = Table()
    table.add_column("profile", no_wrap=True)
    experts = plan.rules.num_experts if plan.rules else 0
    pooled = any(profile.pool for profile in plan.profiles)
    limited = any((profile.max_experts or experts) < experts for profile in plan.profiles)
    cells: dict[str, Callable[[Profile], str | None]] = {
        "capacity ratio": lambda profile: f"{profile.capacity_ratio:g}",
        "effective": lambda profile: f"{profile.effective_ratio:.4g}",
        "k": lambda profile: None if profile.k is None else str(profile.k),
        "BPR": lambda profile: _yes(profile.bpr),
        "pool": lambda profile: _yes(profile.pool) if pooled else None,
        "most experts": lambda profile: str(profile.max_experts) if limited else None,
        "places per expert": lambda profile: str(profile.slots[0]),
        "GFLOP per image": lambda profile: f"{plan.flops(profile) / 1e9:.3g}",
        "of dense": lambda profile: f"{plan.flops(profile) / plan.dense_flops:.0%}",
    }
    there = {name: cell for name, cell in cells.items() if cell(plan.profiles[0]) is not None}
    for name in there:
        table.add_column(name, justify="right")
    for profile in plan.profiles:
        table.add_row(profile.name, *(cell(profile) for cell in there.values()))
    return table


def validation_table(result: ExportResult) -> Table:
    """One row per graph and profile: ONNX Runtime against torch, and how near to the limits."""
    limits = result.findings.limits
    assert limits is not None
    table = _differences("ONNX Runtime against torch", result, result.comparisons[0].images)
    table.add_column("profile", no_wrap=True)
    _add_difference_columns(table, limits)
    table.add_column(f"kept pairs alike (at least {limits.agreement:.1%})", justify="right")
    for comparison in result.comparisons:
        agreement = f"{comparison.agreement:.2%}" if comparison.profile else "-"
        cells = _difference_cells(comparison.max_difference, comparison.relative_difference, limits)
        table.add_row(comparison.graph, comparison.profile or "-", *cells, agreement)
    return table


def distance_table(result: ExportResult) -> Table:
    """One row per profile: the model as stored against the same model in float32."""
    measured = result.distances[0]
    kind = "images" if result.findings.own_images else "random images"
    title = f"{result.plan.stored_precision} against fp32: difference of {result.plan.output}, on {measured.images} {kind}"
    table = Table(title=title, title_justify="left")
    table.add_column("profile", no_wrap=True)
    limit = result.findings.distance_limit
    assert limit is not None
    columns = [
        f"typical, of their size (at most {limit:.0%})",
        "of the limit",
        "largest",
        "same top-1",
        "top-1",
        "top-1 in fp32",
    ]
    shown = [
        [
            f"{distance.relative_difference:.2%}",
            f"{distance.relative_difference / limit:.0%}",
            f"{distance.max_difference:.1e}",
            *map(_share, (distance.same_top1, distance.top1, distance.top1_float32)),
        ]
        for distance in result.distances
    ]
    there = [i for i, cell in enumerate(shown[0]) if cell is not None]
    for i in there:
        table.add_column(columns[i], justify="right")
    table.add_column("kept pairs alike, by block")
    for distance, cells in zip(result.distances, shown, strict=True):
        table.add_row(distance.profile or "-", *(cells[i] for i in there), _by_block(distance.agreement))
    return table


def rounded_table(result: ExportResult) -> Table:
    """One row per TensorRT graph in fp16 or bf16: ONNX Runtime's CPU against torch, and how near to the limits."""
    first, limits = result.rounded[0], result.findings.rounded_limits
    assert limits is not None
    how = "run by ONNX Runtime" if first.how == "onnxruntime" else "not run: emulated in float32"
    title = f"TensorRT graphs in {result.plan.options.precision} against torch, {how}"
    table = _differences(title, result, first.images)
    _add_difference_columns(table, limits)
    table.add_column(f"kept pairs alike (at least {limits.agreement:.0%})", justify="right")
    table.add_column("by block")
    for found in result.rounded:
        difference = found.max_difference if limits.difference is None else found.difference_alike
        cells = _difference_cells(difference, found.relative_difference, limits)
        agreement = f"{found.all_pairs:.2%}" if found.profile else "-"
        table.add_row(found.graph, *cells, agreement, _by_block(found.agreement))
    return table


def _differences(title: str, result: ExportResult, images: int) -> Table:
    table = Table(title=f"{title}: difference of {result.plan.output}, on {images} random images", title_justify="left")
    table.add_column("graph", no_wrap=True)
    return table


def _add_difference_columns(table: Table, limits: Limits) -> None:
    largest, typical = limits.difference, limits.relative
    table.add_column("largest" + (f" (at most {largest:g})" if largest is not None else ""), justify="right")
    if typical is not None:
        table.add_column(f"typical, of their size (at most {typical:.0%})", justify="right")
    table.add_column("of the limit", justify="right")


def _difference_cells(difference: float, relative: float, limits: Limits) -> list[str]:
    shares = []
    if limits.difference is not None:
        shares.append(difference / limits.difference)
    if limits.relative is not None:
        shares.append(relative / limits.relative)
    typical = [] if limits.relative is None else [f"{relative:.2%}"]
    return [f"{difference:.1e}", *typical, f"{max(shares):.0%}"]


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
        "profiles": [{**profile.entry(), "flops_per_image": plan.flops(profile)} for profile in plan.profiles],
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


def _yes(flag: bool | None) -> str | None:
    return None if flag is None else "yes" if flag else "no"


def _routing(routing: RoutingConfig) -> str:
    if isinstance(routing, Soft):
        return f"Soft MoE, {routing.slots_per_expert} slots per expert"
    kind = "experts choice" if isinstance(routing, ExpertsChoice) else "top-K"
    return f"{kind}, places {routing.rounding}, multiple of {routing.capacity_multiple_of}"


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
